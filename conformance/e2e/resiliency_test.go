package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// resilient starts a sidecar whose resiliency policies hold for both components. policies and target are YAML in flow style.
func (e *env) resilient(opts harness.DaprdOptions, policies, target string, settings ...string) *harness.Daprd {
	e.t.Helper()
	opts.Name = opts.AppID
	resources := e.Dir("resources-" + opts.Name)
	require.NoError(e.t, os.MkdirAll(resources, 0o755))
	require.NoError(e.t, os.WriteFile(filepath.Join(resources, "resiliency.yaml"), fmt.Appendf(nil, `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: resiliency}
spec:
  policies: %s
  targets:
    components: {%s: %s, %s: %s}
`, policies, pubsubName, target, storeName, target), 0o644))
	d := e.daprd(opts, storeComponent(), pubsubComponent(settings...))
	e.ready(d)
	return d
}

// gated is written to while nobody has the gate locked.
type gated struct {
	io.Writer
	gate *sync.RWMutex
}

func (w gated) Write(p []byte) (int, error) {
	w.gate.RLock()
	defer w.gate.RUnlock()
	return w.Writer.Write(p)
}

// heldAnswers makes a folder with a socket that leads to dapr-bolt's. Between hold and release, calls get there, and answers
// do not come back.
func (e *env) heldAnswers() (socketDir string, hold, release func()) {
	e.t.Helper()
	socketDir = e.Dir("held")
	require.NoError(e.t, os.MkdirAll(socketDir, 0o700))
	listener, err := net.Listen("unix", filepath.Join(socketDir, "bolt.sock"))
	require.NoError(e.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	e.t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		running.Wait()
	})
	var gate sync.RWMutex
	relay := func(client net.Conn) {
		server, err := net.Dial("unix", filepath.Join(e.bolt.SocketDir, "bolt.sock"))
		if !assert.NoError(e.t, err) {
			return
		}
		end := func() { _, _ = client.Close(), server.Close() }
		defer context.AfterFunc(ctx, end)()
		running.Go(func() {
			defer end()
			_, _ = io.Copy(server, client)
		})
		_, _ = io.Copy(gated{client, &gate}, server)
	}
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { relay(client) })
		}
	})
	return socketDir, gate.Lock, gate.Unlock
}

func TestResiliencyPolicies(t *testing.T) {
	t.Parallel()
	whole := newEnv(t)

	t.Run("what the sidecar retries is one delivery", func(t *testing.T) {
		e := whole.in(t)
		var calls atomic.Int32
		s := e.app(func(delivery) (int, string) {
			if calls.Add(1) < 3 {
				return http.StatusInternalServerError, "not yet"
			}
			return http.StatusOK, ""
		}, subscribe("retried"))
		d := e.resilient(harness.DaprdOptions{AppID: "retried", AppPort: s.port}, `{retries: {few: {policy: constant, duration: 10ms, maxRetries: 2}}}`, `{inbound: {retry: few}}`, "maxDeliver", "1")
		e.publish(d, "retried", "e")
		for _, got := range s.wait(3) {
			require.Equal(t, 1, got.count())
		}
		e.settled()
		require.Empty(t, e.deadLetters("--topic", "retried"))
	})

	// The breaker is one for all topics of the component, and what it refuses is a failed delivery.
	t.Run("what an open circuit breaker refuses is a dead letter, and can be sent again", func(t *testing.T) {
		e := whole.in(t)
		s := e.app(func(d delivery) (int, string) {
			if d.Topic == "bad" {
				return http.StatusInternalServerError, "no slot"
			}
			return http.StatusOK, ""
		}, subscribe("bad"), subscribe("good"))
		d := e.resilient(harness.DaprdOptions{AppID: "broken", AppPort: s.port},
			`{circuitBreakers: {breaker: {maxRequests: 1, timeout: 1h, trip: consecutiveFailures >= 2}}}`,
			`{inbound: {circuitBreaker: breaker}}`, "maxDeliver", "2", "backOff", "10ms")
		e.publish(d, "bad", "b")
		e.eventually(func(c *assert.CollectT) { require.Len(c, e.deadLetters("--topic", "bad"), 1) })
		e.publish(d, "good", "g")
		e.eventually(func(c *assert.CollectT) { require.Len(c, e.deadLetters("--topic", "good"), 1) })
		letter := e.deadLetters("--topic", "good")[0]
		require.Contains(t, letter.LastError, "circuit breaker is open")
		require.Zero(t, s.times("g"))

		e.again(d) // which closes the breaker
		require.NoError(t, e.bolt.Command(t.Context(), nil, "dead-letters", "redrive", fmt.Sprint(letter.ID)))
		s.wait(3)
		e.settled()
		require.Equal(t, 1, s.times("g"))
	})

	t.Run("a call that took effect, and that the sidecar makes again, takes effect once", func(t *testing.T) {
		e := whole.in(t)
		s := e.app(nil, subscribe("published"))
		socketDir, hold, release := e.heldAnswers()
		d := e.resilient(harness.DaprdOptions{AppID: "caller", AppPort: s.port, SocketDir: socketDir},
			`{timeouts: {short: 500ms}, retries: {on: {policy: constant, duration: 50ms, maxRetries: -1}}}`,
			`{outbound: {timeout: short, retry: on}}`)
		hold()
		calls := make(chan error, 2)
		go func() { calls <- d.Publish(t.Context(), pubsubName, "published", "once", nil) }()
		go func() {
			r, err := d.Call(t.Context(), http.MethodPost, "/v1.0/state/"+storeName+"?metadata.idempotencyKey=once",
				[]byte(`[{"key":"once","value":1,"options":{"concurrency":"first-write"}}]`), "Content-Type", "application/json")
			if err == nil {
				err = r.OK()
			}
			calls <- err
		}()
		e.eventually(func(c *assert.CollectT) {
			for _, component := range []string{pubsubName, storeName} {
				require.Contains(c, e.log(d), "component["+component+"] output. Retrying")
			}
		})
		release()
		for range cap(calls) {
			require.NoError(t, <-calls)
		}
		s.wait(1)
		e.settled()
		require.Len(t, s.received(), 1)
	})
}
