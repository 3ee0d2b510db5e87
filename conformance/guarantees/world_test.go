package guarantees

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/scene"
)

const (
	// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
	patience = 60 * time.Second
	poll     = 25 * time.Millisecond
)

// The names of the components that every sidecar here loads.
const (
	storeName  = "store"
	pubsubName = "pubsub"
)

func TestMain(m *testing.M) {
	if err := os.Setenv("GORACE", scene.RaceOptions); err != nil { // for the commands that are run
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// world is one dapr-bolt process and what is started around it; it ends with the test.
type world struct {
	*harness.Harness
	t        *testing.T
	programs scene.Programs
	bolt     *harness.Bolt
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	w.Harness, w.bolt, w.programs = scene.Start(t, harness.BoltOptions{})
	return w
}

// in is the same world for a sub-test.
func (w *world) in(t *testing.T) *world {
	same := *w
	same.t = t
	return &same
}

func (w *world) socket() string { return filepath.Join(w.bolt.SocketDir, "bolt.sock") }

// restart is what a supervisor does after a crash.
func (w *world) restart() {
	w.t.Helper()
	w.bolt.Kill()
	require.NoError(w.t, w.bolt.Restart(w.t.Context()))
}

// sidecar starts one for the app (nil: there is none) with both components; settings are those of the pub/sub.
func (w *world) sidecar(name, appID string, a *app, settings ...string) *harness.Daprd {
	w.t.Helper()
	resources := w.Dir("resources-" + name)
	require.NoError(w.t, harness.WriteComponents(resources,
		harness.NewComponent(storeName, "state.bolt"),
		harness.NewComponent(pubsubName, "pubsub.bolt", settings...)))
	opts := harness.DaprdOptions{
		Path:      w.programs.Daprd,
		Name:      name,
		AppID:     appID,
		Resources: []string{resources},
		Args:      []string{"--max-body-size", "16Mi"},
	}
	if a != nil {
		opts.AppPort = a.port
	}
	d, err := w.StartDaprd(opts)
	require.NoError(w.t, err)
	return d
}

// ready waits until the sidecars are.
func (w *world) ready(sidecars ...*harness.Daprd) {
	w.t.Helper()
	for _, d := range sidecars {
		require.NoError(w.t, d.WaitReady(w.t.Context()))
	}
}

// call sends a request through the sidecar.
func (w *world) call(d *harness.Daprd, method, path string, body any, headers ...string) harness.Response {
	w.t.Helper()
	r, err := d.Call(w.t.Context(), method, path, body, headers...)
	require.NoError(w.t, err)
	return r
}

// topic is what `dapr-bolt topics --output json` says of one.
type topic struct {
	Topic  string  `json:"topic"`
	Stored int     `json:"stored"`
	Groups []group `json:"groups"`
}

type group struct {
	Group   string `json:"group"`
	Waiting int    `json:"waiting"`
	InHand  int    `json:"inHand"`
	Delayed int    `json:"delayed"`
	Dead    int    `json:"dead"`
	Streams int    `json:"streams"`
}

// owed counts the events that may still be delivered.
func (g group) owed() int { return g.Waiting + g.InHand + g.Delayed }

func (w *world) topics() []topic {
	w.t.Helper()
	return w.topicsFor(w.t)
}

// topicsFor is topics for a condition that is waited for.
func (w *world) topicsFor(t require.TestingT) (topics []topic) {
	require.NoError(t, w.bolt.Command(w.t.Context(), &topics, "topics"))
	return topics
}

// group returns the topic's only group.
func (t topic) group(c require.TestingT) group {
	require.Len(c, t.Groups, 1, "groups of topic %s", t.Topic)
	return t.Groups[0]
}

// streams waits until the topic has exactly these groups, each with so many open subscriptions.
func (w *world) streams(name string, want map[string]int) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		found := make(map[string]int)
		for _, t := range w.topicsFor(c) {
			for _, g := range t.Groups {
				if t.Topic == name {
					found[g.Group] = g.Streams
				}
			}
		}
		require.Equal(c, want, found, "subscriptions to topic %s by group", name)
	}, patience, poll)
}

// settled waits until no group is owed anything: nothing more can be delivered.
func (w *world) settled() {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		for _, t := range w.topicsFor(c) {
			for _, g := range t.Groups {
				require.Zero(c, g.owed(), "what topic %s still owes to group %s: %+v", t.Topic, g.Group, g)
			}
		}
	}, patience, poll)
}
