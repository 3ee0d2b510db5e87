package harness_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The sidecar is real, the component a built-in one: this test is about starting,
// waiting and stopping.
func TestSidecarLife(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	path, err := checkout.Daprd(t.Context())
	require.NoError(t, err)

	var shown logtest.Buffer
	h, err := harness.New(harness.Options{Output: &shown})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })

	resources := h.Dir("resources")
	require.NoError(t, harness.WriteComponents(resources, harness.NewComponent("memory", "state.in-memory")))
	daprd, err := h.StartDaprd(harness.DaprdOptions{Path: path, AppID: "alone", Resources: []string{resources}})
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, harness.WaitReady(t.Context(), daprd))
	t.Logf("ready after %s", time.Since(began))

	items := []map[string]any{{"key": "answer", "value": 42}}
	response, err := daprd.Call(t.Context(), http.MethodPost, "/v1.0/state/memory", items)
	require.NoError(t, err)
	require.NoError(t, response.OK())
	response, err = daprd.Call(t.Context(), http.MethodGet, "/v1.0/state/memory/answer", nil)
	require.NoError(t, err)
	require.Equal(t, "42", string(response.Body))

	require.Error(t, daprd.Start(), "it still runs")
	first := daprd.PID()
	daprd.Kill()
	require.ErrorIs(t, syscall.Kill(first, 0), syscall.ESRCH)
	require.NoError(t, daprd.Start())
	require.NoError(t, daprd.WaitReady(t.Context()))
	require.NotEqual(t, first, daprd.PID())
	began = time.Now()
	require.NoError(t, daprd.Stop())
	t.Logf("stopped after %s", time.Since(began))

	require.Contains(t, daprd.LogTail(), "app_id=alone")
	require.Regexp(t, `(?m)^alone-daprd +\| time=`, shown.String())
}

func TestAProcessThatEndsWhileStartingShowsItsLog(t *testing.T) {
	h := newHarness(t)
	port, err := h.FreePort()
	require.NoError(t, err)
	app, err := h.StartApp(harness.AppOptions{Name: "broken", Path: "/bin/sh", Args: []string{"-c", "echo no luck today; exit 3"}, Port: port})
	require.NoError(t, err)
	err = app.WaitReady(t.Context())
	require.ErrorContains(t, err, "broken ended while starting: exit status 3")
	require.ErrorContains(t, err, "no luck today")
	require.ErrorContains(t, h.Watch(t.Context()), "broken ended by itself")
	require.NoError(t, h.Close(), "the caller knows already")
}

func TestCloseReportsAProcessThatEndedBadly(t *testing.T) {
	h := newHarness(t)
	app, err := h.StartApp(harness.AppOptions{Name: "broken", Path: "/bin/sh", Args: []string{"-c", "echo no luck today; exit 3"}})
	require.NoError(t, err)
	<-app.Done()
	err = h.Close()
	require.ErrorContains(t, err, "stopping broken: exit status 3")
	require.ErrorContains(t, err, "no luck today")
}

func TestAProgramThatIsNotThere(t *testing.T) {
	h := newHarness(t)
	_, err := h.StartApp(harness.AppOptions{Name: "absent", Path: "/does/not/exist"})
	require.ErrorContains(t, err, "starting absent")
	require.NoError(t, h.Close())
}

func TestCloseStopsSidecarsThenAppsThenComponents(t *testing.T) {
	h := newHarness(t)
	order := h.Dir("order")
	// A stand-in for each program: it writes its name when it is asked to end.
	script := filepath.Join(h.Dir(), "stand-in")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\ntrap 'echo $WHO >>"+order+"; exit 0' TERM\ntouch $READY\nwhile :; do sleep 0.05; done\n"), 0o755))
	env := func(who string) []string {
		return []string{"WHO=" + who, "READY=" + h.Dir(who)}
	}
	_, err := h.StartApp(harness.AppOptions{Name: "app", Path: script, Env: env("app")})
	require.NoError(t, err)
	_, err = h.StartDaprd(harness.DaprdOptions{Path: script, AppID: "sidecar", Env: env("sidecar")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = h.StartBolt(ctx, harness.BoltOptions{Path: script, Env: env("component")})
	require.ErrorIs(t, err, context.Canceled)
	for _, who := range []string{"app", "sidecar", "component"} {
		require.Eventually(t, func() bool { _, err := os.Stat(h.Dir(who)); return err == nil }, 5*time.Minute, 10*time.Millisecond)
	}
	h.Keep()
	require.NoError(t, h.Close())
	raw, err := os.ReadFile(order)
	require.NoError(t, err)
	require.Equal(t, "sidecar\napp\ncomponent\n", string(raw))
	require.NoError(t, os.RemoveAll(h.Dir()))
}

func TestPortsAreFreeAndTheirOwn(t *testing.T) {
	one, other := newHarness(t), newHarness(t)
	seen := map[int]bool{}
	for range 50 {
		for _, h := range []*harness.Harness{one, other} {
			port, err := h.FreePort()
			require.NoError(t, err)
			require.False(t, seen[port], "port %d twice", port)
			seen[port] = true
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	port := listener.Addr().(*net.TCPAddr).Port
	require.EqualError(t, harness.CheckPort(port), fmt.Sprintf("port %d is in use by another process", port))
	require.NoError(t, one.Close())
	require.NoError(t, other.Close())
}

func TestComponentFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "in.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: thing
  namespace: home
spec:
  type: state.bolt
  version: v1
  ignoreErrors: true
  metadata:
    - name: database
      value: one
    - name: secret
      secretKeyRef: {name: a, key: b}
scopes: [app]
`), 0o644))
	component, err := harness.ReadComponent(file)
	require.NoError(t, err)
	component.Set("database", "two")
	component.Set("bucket", "new")
	require.NoError(t, harness.WriteComponents(filepath.Join(dir, "out"), component))
	raw, err := os.ReadFile(filepath.Join(dir, "out", "thing.yaml"))
	require.NoError(t, err)
	require.YAMLEq(t, `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: thing, namespace: home}
spec:
  type: state.bolt
  version: v1
  ignoreErrors: true
  metadata:
    - {name: database, value: two}
    - {name: secret, secretKeyRef: {name: a, key: b}}
    - {name: bucket, value: new}
scopes: [app]
`, string(raw))
}

func newHarness(t *testing.T) *harness.Harness {
	t.Helper()
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	return h
}

// Processes that are being started hold copies of all that this one has open, listeners that it closes among them.
func TestListenWhileProcessesAreStarted(t *testing.T) {
	h := newHarness(t)
	var stop atomic.Bool
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for !stop.Load() {
				assert.NoError(t, exec.Command("true").Run())
			}
		})
	}
	defer starters.Wait()
	defer stop.Store(true)
	for range 1000 {
		port, err := h.FreePort()
		require.NoError(t, err)
		for range 2 {
			listener, err := harness.Listen(t.Context(), port)
			require.NoError(t, err)
			require.NoError(t, listener.Close())
		}
	}
}
