package e2e_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// badMetadata is refused by Init. The texts must be in the answer: the field, the value, and what is allowed.
var badMetadata = []struct {
	kind, field, value string
	allowed            string
	// shown: a sidecar is started with it as well. One is enough to see that the answer reaches its log.
	shown bool
}{
	{"pubsub", "dedupWindow", "soon", "a duration of 0 or more", true},
	{"pubsub", "dedupWindow", "-1s", "a duration of 0 or more", false},
	{"pubsub", "database", "../x", "letters, digits, - and _", true},
	{"state", "database", "../x", "letters, digits, - and _", true},
	{"state", "database", "/etc/passwd", "letters, digits, - and _", false},
	{"state", "bucket", "a/b", "letters, digits, - and _", false},
	{"state", "cleanupInterval", "1ns", "a duration of at least 100ms", false},
	{"state", "idempotencyWindow", "0", "a duration above 0", false},
	{"pubsub", "bucket", "a b", "letters, digits, - and _", false},
	{"pubsub", "dedupBy", "colour", "id, data, none, or fields:PATH", false},
	{"pubsub", "maxDeliver", "-1", "a whole number of 0 or more", false},
	{"pubsub", "backOff", "1s,later", "durations of 0 or more", false},
	{"pubsub", "ackWait", "a while", "a duration of 0 or more", false},
	{"pubsub", "maxAckPending", "0", "a whole number from 1 to", false},
	{"pubsub", "ordered", "maybe", "true or false", false},
	{"pubsub", "deliverPolicy", "some", "all or new", false},
	{"pubsub", "maxAge", "old", "a duration of 0 or more", false},
	{"pubsub", "maxBytes", "-5", "a number of bytes of 0 or more", false},
}

func TestInitRefusesBadMetadata(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	before := e.files()
	for _, test := range badMetadata {
		t.Run(test.kind+" "+test.field+" "+test.value, func(t *testing.T) {
			e := e.in(t)
			c := e.client("bad")
			init := c.InitPubSub
			if test.kind == "state" {
				init = c.InitState
			}
			err := init(t.Context(), test.field, test.value)
			require.Error(t, err)
			for _, text := range []string{test.field, test.value, test.allowed} {
				require.ErrorContains(t, err, text)
			}
			require.Equal(t, before, e.files(), "what is in the data folder")
			require.Empty(t, e.topics())
		})
	}
}

func TestASidecarWithBadMetadataSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	before := e.files()
	for i, test := range badMetadata {
		if !test.shown {
			continue
		}
		t.Run(test.kind+" "+test.field+" "+test.value, func(t *testing.T) {
			t.Parallel()
			e := e.in(t)
			name := fmt.Sprintf("refused-%d", i)
			resources := e.Dir(name)
			require.NoError(t, harness.WriteComponents(resources, harness.NewComponent("wrong", test.kind+".bolt", test.field, test.value)))
			d, err := e.StartDaprd(harness.DaprdOptions{Path: e.programs.Daprd, AppID: "app", Name: name, Resources: []string{resources}})
			require.NoError(t, err)
			<-d.Done() // it may call itself healthy for a moment before
			err = d.WaitReady(t.Context())
			require.ErrorContains(t, err, "ended while starting: exit status 1")
			for _, text := range []string{"wrong", test.field, test.value, test.allowed} {
				require.ErrorContains(t, err, text)
			}
			require.Equal(t, before, e.files(), "what is in the data folder")
		})
	}
}

// files are the names in the data folder.
func (e *env) files() (names []string) {
	e.t.Helper()
	entries, err := os.ReadDir(e.bolt.DataDir)
	require.NoError(e.t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
