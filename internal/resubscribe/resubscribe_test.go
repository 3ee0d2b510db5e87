package resubscribe

import (
	"context"
	"fmt"
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

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
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
    - name: resubscribed
      value: "zero"

---
kind: Component
metadata: {name: other}
spec:
  type: state.bolt
  metadata: [{name: broken, value: ""}]
`

func TestTouchChangesOneValueAndNothingElse(t *testing.T) {
	before, after := `value: "zero"`, `value: "one"`
	for name, c := range map[string]struct{ before, after string }{
		"double quotes": {before, after},
		"single quotes": {`value: 'zero'`, after},
		"plain value":   {`value: zero`, after},
		"no value":      {`value: ""`, after},
		"a comment":     {`value: zero   # ours`, after + " # ours"},
		"windows":       {before + "\r", after + "\r"},
		"value first":   {"value: zero\n      enabled: true", after + "\n      enabled: true"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bus.yaml")
			require.NoError(t, os.WriteFile(path, []byte(strings.Replace(plain, before, c.before, 1)), 0o640))
			found, err := Touch(path, "pubsub.bolt", []string{"bus", "other"}, "one")
			require.NoError(t, err)
			require.Equal(t, []string{"bus"}, found)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, strings.Replace(plain, before, c.after, 1), string(got))
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
		})
	}
}

func TestTouchLeavesOtherComponentsAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(plain), 0o600))
	for _, c := range []struct{ componentType, name string }{{"pubsub.redis", "bus"}, {"pubsub.bolt", "x"}} {
		found, err := Touch(path, c.componentType, []string{c.name}, "one")
		require.NoError(t, err)
		require.Empty(t, found)
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, plain, string(got))
}

// All components of a file are found, and all that lack the item are named.
func TestTouchNamesEachComponentWithoutTheItem(t *testing.T) {
	const component = "kind: Component\nmetadata: {name: %s}\nspec: {type: pubsub.bolt}\n"
	path := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, component+"---\n"+component, "a", "b"), 0o600))
	found, err := Touch(path, "pubsub.bolt", []string{"a", "b"}, "x")
	require.ErrorContains(t, err, "component a: ")
	require.ErrorContains(t, err, "component b: ")
	require.Equal(t, []string{"a", "b"}, found)
}

func TestTouchRefusesWhatItCannotChange(t *testing.T) {
	const head = "kind: Component\nmetadata: {name: bus}\nspec:\n  type: pubsub.bolt\n"
	for name, c := range map[string]struct{ file, want string }{
		"no metadata": {head, "its spec.metadata has no item resubscribed; add one"},
		"no item":     {head + "  metadata:\n  - name: a\n    value: b\n", "its spec.metadata has no item resubscribed; add one"},
		"flow list":   {head + "  metadata: [{name: resubscribed, value: b}]\n", ""},
		"not yaml":    {"kind: [", "yaml"},
		"text value":  {head + "  metadata:\n  - name: resubscribed\n    value: |\n      x\n", ""},
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

func open(t *testing.T, dir string) *sidecars.Registry {
	t.Helper()
	r, err := sidecars.Open(sidecars.Options{Dir: dir})
	require.NoError(t, err)
	return r
}

// sidecar is one that cannot be seen to end.
var sidecar = access.Process{Handle: 1}

type run struct {
	clock    *clockwork.FakeClock
	log      *strings.Builder
	dir      string
	sidecars *sidecars.Registry
	done     chan struct{}
}

// start calls Run after a process that had a stream of component bus.
func start(t *testing.T, o Options) *run {
	dir := t.TempDir()
	s := open(t, dir).Connect(sidecar)
	s.Initialized(sidecars.PubSub, "bus", nil)
	s.StreamOpened("bus")
	return restart(t, dir, o)
}

func restart(t *testing.T, dir string, o Options) *run {
	c := &run{clock: clockwork.NewFakeClock(), log: &strings.Builder{}, dir: dir, sidecars: open(t, dir), done: make(chan struct{})}
	o.Sidecars, o.ComponentType, o.Clock, o.Logger = c.sidecars, "pubsub.bolt", c.clock, slog.New(slog.NewTextHandler(c.log, nil))
	go func() { defer close(c.done); Run(context.Background(), o) }()
	return c
}

// comesBack opens the stream that is missing.
func (c *run) comesBack() { c.sidecars.Connect(sidecar).StreamOpened("bus") }

func (c *run) advance(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	require.NoError(t, c.clock.BlockUntilContext(ctx, 1))
	c.clock.Advance(d)
}

func TestStreamsThatComeBackAreNotAskedFor(t *testing.T) {
	c := start(t, Options{Files: []string{"/missing"}})
	c.comesBack()
	<-c.done
	require.Empty(t, c.log.String())
}

// Each of two apps may have a file of its own for a component of the same name.
func TestMissingStreamsAreAskedForByEachFile(t *testing.T) {
	paths := []string{filepath.Join(t.TempDir(), "bus.yaml"), filepath.Join(t.TempDir(), "bus.yaml")}
	for _, path := range paths {
		require.NoError(t, os.WriteFile(path, []byte(plain), 0o600))
	}
	c := start(t, Options{Files: paths})
	c.advance(t, grace)
	c.advance(t, 0)
	c.comesBack()
	<-c.done
	for _, path := range paths {
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(got), "- name: resubscribed\n      value: \""+c.clock.Now().UTC().Format(time.RFC3339Nano))
	}
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
}

func TestWithoutMeansItSaysWhatToDo(t *testing.T) {
	c := start(t, Options{})
	c.advance(t, grace)
	<-c.done
	require.Contains(t, c.log.String(), "restart the sidecars, or change a metadata value")
	require.Contains(t, c.log.String(), "components=bus")

	// What is missing is remembered: with the means, the next process brings it back.
	path := filepath.Join(t.TempDir(), "bus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(plain), 0o600))
	c = restart(t, c.dir, Options{Files: []string{path}})
	c.advance(t, grace)
	c.advance(t, 0)
	c.comesBack()
	<-c.done
	require.Contains(t, c.log.String(), "asking for them")
	require.Contains(t, c.log.String(), "the subscriptions are back")
}

// A new sidecar's stream is not the missing one, though its component has the same name.
func TestAnotherSidecarsStreamIsNotTakenForTheMissingOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(plain), 0o600))
	c := start(t, Options{Files: []string{path}})
	another := c.sidecars.Connect(access.Process{Handle: 2})
	another.Initialized(sidecars.PubSub, "bus", map[string]string{"consumerID": "another"})
	another.StreamOpened("bus")
	c.advance(t, grace)
	c.advance(t, 0)
	c.comesBack()
	<-c.done
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotEqual(t, plain, string(got))
}

// givesUp returns what is logged of a component file that cannot be touched.
func givesUp(t *testing.T, file string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
	c := start(t, Options{Files: []string{path}})
	c.advance(t, grace)
	c.advance(t, patience)
	<-c.done
	return c.log.String()
}

func TestAFileWithoutTheComponentIsNamed(t *testing.T) {
	require.Contains(t, givesUp(t, "kind: Component\n"), "none of the component files names these components")
}

// A file that names the component, and cannot be changed, is not taken for one that does not name it.
func TestAFileWithoutTheItemIsNotSaidToNameNoComponent(t *testing.T) {
	log := givesUp(t, "kind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.bolt}\n")
	require.Contains(t, log, "component bus: its spec.metadata has no item resubscribed")
	require.NotContains(t, log, "none of the component files")
}
