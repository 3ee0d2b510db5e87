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

// env is a harness that ends with the test.
type env struct {
	*harness.Harness
	t    *testing.T
	path string
}

func newEnv(t *testing.T) *env {
	t.Helper()
	path, err := harness.BoltProgram()
	require.NoError(t, err)
	return &env{Harness: harness.ForTest(t), t: t, path: path}
}

// bolt starts a process that ends with the test.
func (e *env) bolt(opts harness.BoltOptions) *harness.Bolt {
	e.t.Helper()
	opts.Path = e.path
	return harness.StartBolt(e.t, e.Harness, opts)
}

// client connects for one component.
func (e *env) client(b *harness.Bolt, component string) *harness.Client {
	e.t.Helper()
	c, err := harness.Dial(socketOf(b), component)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { require.NoError(e.t, c.Close()) })
	return c
}

func (e *env) store(b *harness.Bolt) *harness.Client {
	e.t.Helper()
	c := e.client(b, "store")
	require.NoError(e.t, c.InitState(e.t.Context()))
	return c
}

func (e *env) pubsub(b *harness.Bolt, group string, settings ...string) *harness.Client {
	e.t.Helper()
	c := e.client(b, "pubsub-"+group)
	require.NoError(e.t, c.InitPubSub(e.t.Context(), append([]string{"consumerID", group}, settings...)...))
	return c
}

func socketOf(b *harness.Bolt) string { return filepath.Join(b.SocketDir, "bolt.sock") }

// get asks the process's HTTP listener.
func (e *env) get(b *harness.Bolt, method, path string) (status int, body string) {
	e.t.Helper()
	request, err := http.NewRequestWithContext(e.t.Context(), method, "http://"+b.HTTPAddress+path, nil)
	require.NoError(e.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(e.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(e.t, err)
	return response.StatusCode, string(raw)
}

// readyz waits until the process says of itself what is wanted: ok, or what is wrong.
func (e *env) readyz(b *harness.Bolt, status int, body string) {
	e.t.Helper()
	require.EventuallyWithT(e.t, func(c *assert.CollectT) {
		gotStatus, got := e.get(b, http.MethodGet, "/readyz")
		require.Equal(c, status, gotStatus, got)
		require.Contains(c, got, body)
	}, patience, poll)
}

// refuses starts a process that must not come up, and returns what it said.
func (e *env) refuses(opts harness.BoltOptions) string {
	e.t.Helper()
	opts.Path = e.path
	opts.Name = "refused"
	b, err := e.StartBolt(e.t.Context(), opts)
	require.Error(e.t, err)
	if b != nil {
		select {
		case <-b.Done():
		default:
			require.Fail(e.t, "it runs")
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
