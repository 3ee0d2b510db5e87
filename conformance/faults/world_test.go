package faults

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	// patience bounds each wait for something that must happen.
	patience = 5 * time.Minute
	poll     = 10 * time.Millisecond
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(visitorVariable); socket != "" {
		visit(socket)
		return
	}
	if socket := os.Getenv(neighbourVariable); socket != "" {
		neighbour(socket)
		return
	}
	if err := os.Setenv("GORACE", harness.RaceOptions); err != nil { // for the commands that are run
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}))
}

var checkout = sync.OnceValues(harness.FindCheckout)

// world is a harness that ends with the test.
type world struct {
	*harness.Harness
	t    *testing.T
	path string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	path, err := harness.BoltProgram()
	require.NoError(t, err)
	return &world{Harness: harness.ForTest(t), t: t, path: path}
}

// bolt starts a process that ends with the test.
func (w *world) bolt(opts harness.BoltOptions) *harness.Bolt {
	w.t.Helper()
	opts.Path = w.path
	return harness.StartBolt(w.t, w.Harness, opts)
}

// client connects for one component.
func (w *world) client(b *harness.Bolt, component string) *harness.Client {
	w.t.Helper()
	c, err := harness.Dial(socketOf(b), component)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, c.Close()) })
	return c
}

func (w *world) store(b *harness.Bolt) *harness.Client {
	w.t.Helper()
	c := w.client(b, "store")
	require.NoError(w.t, c.InitState(w.t.Context()))
	return c
}

func (w *world) pubsub(b *harness.Bolt, group string, settings ...string) *harness.Client {
	w.t.Helper()
	c := w.client(b, "pubsub-"+group)
	require.NoError(w.t, c.InitPubSub(w.t.Context(), append([]string{"consumerID", group}, settings...)...))
	return c
}

func socketOf(b *harness.Bolt) string { return filepath.Join(b.SocketDir, "bolt.sock") }

// get asks the process's HTTP listener.
func (w *world) get(b *harness.Bolt, method, path string) (status int, body string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+b.HTTPAddress+path, nil)
	require.NoError(w.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(w.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	return response.StatusCode, string(raw)
}

// readyz waits until the process says of itself what is wanted: ok, or what is wrong.
func (w *world) readyz(b *harness.Bolt, status int, body string) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		gotStatus, got := w.get(b, http.MethodGet, "/readyz")
		require.Equal(c, status, gotStatus, got)
		require.Contains(c, got, body)
	}, patience, poll)
}

// refuses starts a process that must not come up, and returns what it said.
func (w *world) refuses(opts harness.BoltOptions) string {
	w.t.Helper()
	opts.Path = w.path
	opts.Name = "refused"
	b, err := w.StartBolt(w.t.Context(), opts)
	require.Error(w.t, err)
	if b != nil {
		select {
		case <-b.Done():
		default:
			require.Fail(w.t, "it runs")
		}
	}
	return fmt.Sprint(err)
}

func logOf(t *testing.T, p interface{ LogPath() string }) string {
	t.Helper()
	raw, err := os.ReadFile(p.LogPath())
	require.NoError(t, err)
	return string(raw)
}

// needsRoot skips a test that only root can do, and says so where everybody sees it.
func needsRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		fmt.Printf("NOT TESTED: %s: %s needs root, on Linux\n", t.Name(), what)
		t.Skipf("%s needs root, on Linux", what)
	}
}
