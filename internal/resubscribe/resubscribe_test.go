package resubscribe

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const plain = `# The events of the app.
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: bus   # what apps call it
spec:
  type: pubsub.bolt
  version: v1
  metadata:
    # How often.
    - name: maxDeliver
      value: "5"

---
kind: Component
metadata: {name: other}
spec:
  type: state.bolt
`

func TestTouchChangesOurItemAndNothingElse(t *testing.T) {
	owned := strings.Replace(plain, "      value: \"5\"\n", "      value: \"5\"\n    - name: resubscribed\n      value: \"one\"\n", 1)
	for name, c := range map[string]struct{ before, after string }{
		"first time":    {plain, owned},
		"again":         {strings.Replace(owned, `"one"`, `"zero"`, 1), owned},
		"single quotes": {strings.Replace(owned, `"one"`, `'zero' # ours`, 1), strings.Replace(owned, `"one"`, `"one" # ours`, 1)},
		"plain value":   {strings.Replace(owned, `"one"`, `zero # ours`, 1), strings.Replace(owned, `"one"`, `"one" # ours`, 1)},
		"no metadata": {
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  type: pubsub.bolt\n  version: v1\n",
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  type: pubsub.bolt\n  version: v1\n  metadata:\n    - name: resubscribed\n      value: \"one\"\n",
		},
		"no line end": {
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  type: pubsub.bolt\n  metadata:\n  - name: a\n    value: b",
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  type: pubsub.bolt\n  metadata:\n  - name: a\n    value: b\n  - name: resubscribed\n    value: \"one\"\n",
		},
		"text over lines": {
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  metadata:\n  - name: a\n    value: |\n      b\n      c\n  type: pubsub.bolt\n",
			"kind: Component\nmetadata:\n  name: bus\nspec:\n  metadata:\n  - name: a\n    value: |\n      b\n      c\n  - name: resubscribed\n    value: \"one\"\n  type: pubsub.bolt\n",
		},
		"another name": {strings.Replace(plain, "name: bus", "name: x", 1), strings.Replace(plain, "name: bus", "name: x", 1)},
		"another type": {strings.Replace(plain, "pubsub.bolt", "pubsub.redis", 1), strings.Replace(plain, "pubsub.bolt", "pubsub.redis", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bus.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.before), 0o640))
			found, err := Touch(path, "pubsub.bolt", []string{"bus", "other"}, "one")
			require.NoError(t, err)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.after, string(got))
			require.Equal(t, c.before != c.after, len(found) == 1)
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
		})
	}
}

func TestTouchRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"flow list":  {"kind: Component\nmetadata: {name: bus}\nspec:\n  type: pubsub.bolt\n  metadata: [{name: a, value: b}]\n", "by hand"},
		"flow spec":  {"kind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.bolt}\n", ""},
		"not yaml":   {"kind: [", "yaml"},
		"text value": {"kind: Component\nmetadata: {name: bus}\nspec:\n  type: pubsub.bolt\n  metadata:\n  - name: resubscribed\n    value: |\n      x\n", "give it one"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bus.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.file), 0o600))
			_, err := Touch(path, "pubsub.bolt", []string{"bus"}, "one")
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, path)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.file, string(got))
		})
	}
}

func FuzzTouch(f *testing.F) {
	f.Add(plain)
	f.Add("spec: {}")
	f.Fuzz(func(t *testing.T, file string) {
		after, found, err := touch([]byte(file), "pubsub.bolt", []string{"bus"}, "one")
		if err == nil && len(found) == 0 {
			require.Equal(t, file, string(after))
		}
	})
}

func roll(t *testing.T, dir string) *Roll {
	t.Helper()
	r, err := OpenRoll(dir)
	require.NoError(t, err)
	return r
}

func TestTheRollOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	r := roll(t, dir)
	require.Empty(t, r.Missing())
	require.NoError(t, r.Opened("a"))
	require.NoError(t, r.Opened("a"))
	require.NoError(t, r.Opened("b"))
	require.NoError(t, r.Closed("b"))

	r = roll(t, dir)
	require.Equal(t, []string{"a"}, r.Missing())
	require.NoError(t, r.Opened("a"))
	require.Equal(t, []string{"a"}, r.Missing(), "one of two is back")
	r = roll(t, dir)
	require.NoError(t, r.Opened("a"))
	require.NoError(t, r.Opened("a"))
	require.Empty(t, r.Missing())

	require.NoError(t, os.WriteFile(filepath.Join(dir, rollFile), []byte("{"), 0o600))
	_, err := OpenRoll(dir)
	require.ErrorContains(t, err, "remove the file")
}

type call struct {
	clock *clockwork.FakeClock
	log   *strings.Builder
	roll  *Roll
	done  chan struct{}
}

// start runs Call after a process that had a stream of component bus.
func start(t *testing.T, o Options) *call {
	dir := t.TempDir()
	require.NoError(t, roll(t, dir).Opened("bus"))
	c := &call{clock: clockwork.NewFakeClock(), log: &strings.Builder{}, roll: roll(t, dir), done: make(chan struct{})}
	o.Roll, o.ComponentType, o.Clock, o.Logger = c.roll, "pubsub.bolt", c.clock, slog.New(slog.NewTextHandler(c.log, nil))
	go func() { defer close(c.done); Call(context.Background(), o) }()
	return c
}

func (c *call) advance(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, c.clock.BlockUntilContext(ctx, 1))
	c.clock.Advance(d)
}

func TestStreamsThatComeBackAreNotAskedFor(t *testing.T) {
	c := start(t, Options{Files: []string{"/missing"}})
	require.NoError(t, c.roll.Opened("bus"))
	<-c.done
	require.Empty(t, c.log.String())
}

func TestMissingStreamsAreAskedForByTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(plain), 0o600))
	c := start(t, Options{Files: []string{path}})
	c.advance(t, grace)
	c.advance(t, 0)
	require.NoError(t, c.roll.Opened("bus"))
	<-c.done
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(got), "- name: resubscribed\n      value: \""+c.clock.Now().UTC().Format(time.RFC3339Nano))
	require.Contains(t, c.log.String(), "the subscriptions are back")
}

func TestMissingStreamsAreAskedForByTheSidecarsRestart(t *testing.T) {
	asked := make(chan *http.Request, 1)
	sidecar := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r }))
	defer sidecar.Close()
	defer http.DefaultClient.CloseIdleConnections()
	c := start(t, Options{Sidecar: sidecar.URL + "/", APIToken: "secret"})
	c.advance(t, grace)
	r := <-asked
	require.Equal(t, "POST /v1.0/shutdown", r.Method+" "+r.URL.Path)
	require.Equal(t, "secret", r.Header.Get("dapr-api-token"))
	c.advance(t, patience)
	<-c.done
	require.Contains(t, c.log.String(), "have not come back")
	require.Empty(t, c.roll.Missing(), "it is said once, not at every start")
}

func TestWithoutMeansItSaysWhatToDo(t *testing.T) {
	c := start(t, Options{})
	c.advance(t, grace)
	<-c.done
	require.Contains(t, c.log.String(), "restart the sidecars, or change a metadata value")
	require.Contains(t, c.log.String(), "components=bus")
}

func TestAFileWithoutTheComponentIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.yaml")
	require.NoError(t, os.WriteFile(path, []byte("kind: Component\n"), 0o600))
	c := start(t, Options{Files: []string{path}})
	c.advance(t, grace)
	c.advance(t, patience)
	<-c.done
	require.Contains(t, c.log.String(), "none of the component files names these components")
}
