package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
const patience = 10 * time.Minute

const (
	callers = 16
	poll    = time.Millisecond
)

// start starts dapr-bolt, and connects to its socket, for as long as the test runs.
func start(t *testing.T) (*harness.Bolt, *socket) {
	t.Helper()
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "store", grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.InitState(t.Context()))
	return bolt, &socket{Client: c}
}

// record lets the clients make so many calls.
func record(t *testing.T, h *history, s store, calls int) {
	t.Helper()
	stop := clients(t.Context(), callers, h, s)
	defer stop()
	waitFor(t, h, h.len()+calls)
}

func waitFor(t *testing.T, h *history, calls int) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := h.made(); return h.len() >= calls || err != nil }, patience, poll)
	_, err := h.made()
	require.NoError(t, err)
}

// check has porcupine look for an order.
func check(t *testing.T, operations []porcupine.Operation) porcupine.CheckResult {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(model, operations, patience)
	if result == porcupine.Illegal && !t.Failed() {
		path := filepath.Join(os.TempDir(), fmt.Sprintf("dapr-bolt-history-%d.html", rand.Uint32()))
		t.Logf("the calls that have no order: %s", path)
		require.NoError(t, porcupine.VisualizePath(model, info, path))
	}
	return result
}

func TestCallsAreLinearizableWhateverIsKilled(t *testing.T) {
	t.Parallel()
	const kills, callsPerLife = 5, 1000
	bolt, s := start(t)
	h := newHistory()
	stop := clients(t.Context(), callers, h, s)
	defer stop()
	for range kills {
		waitFor(t, h, h.len()+callsPerLife/2+rand.IntN(callsPerLife))
		bolt.Kill()
		require.NoError(t, bolt.Restart(t.Context()))
	}
	waitFor(t, h, h.len()+callsPerLife)
	stop()

	operations, err := h.made()
	require.NoError(t, err)
	require.NoError(t, versions(operations))
	counts := make(map[string]int)
	for _, o := range operations {
		c, a := o.Input.(call), o.Output.(answer)
		switch {
		case a.unknown:
			counts["writes cut off by a kill"]++
		case c.reads != nil:
			counts["reads"]++
		case a.refused:
			counts["writes refused"]++
		case len(c.changes) > 1:
			counts["transactions"]++
		default:
			counts["sets and deletes"]++
		}
	}
	began := time.Now()
	require.Equal(t, porcupine.Ok, check(t, operations))
	fmt.Printf("%d calls by %d clients over %d kills have an order, found in %s: %v\n",
		len(operations), callers, kills, time.Since(began).Round(time.Millisecond), counts)
	require.Len(t, counts, 5, "each kind of outcome is in the history")
}

// broken is a store with a fault.
type broken struct {
	store
	fault func(ctx context.Context, s store, c call) (answer, error)
}

func (b *broken) do(ctx context.Context, c call) (answer, error) { return b.fault(ctx, b.store, c) }

// What the test above finds in order must be able to fail: each of these faults is found.
func TestTheCheckerFindsAFault(t *testing.T) {
	t.Parallel()
	const calls = 1000
	_, s := start(t)
	now := func(n *atomic.Int64) bool { return n.Add(1)%20 == 0 }
	var n atomic.Int64
	for _, test := range []struct {
		name  string
		fault func(ctx context.Context, s store, c call) (answer, error)
	}{
		{"a read that is late", stale()},
		{"half a transaction", func(ctx context.Context, s store, c call) (answer, error) {
			if len(c.changes) < 2 || !now(&n) {
				return s.do(ctx, c)
			}
			c.changes = c.changes[:1]
			return s.do(ctx, c)
		}},
		{"an acknowledged write that is lost", func(ctx context.Context, s store, c call) (answer, error) {
			if len(c.changes) != 1 || c.changes[0].when != always || !now(&n) {
				return s.do(ctx, c)
			}
			return answer{}, nil
		}},
		{"an etag that is not looked at", func(ctx context.Context, s store, c call) (answer, error) {
			if len(c.changes) != 1 {
				return s.do(ctx, c)
			}
			c.changes = []change{c.changes[0]}
			c.changes[0].when = always
			return s.do(ctx, c)
		}},
		{"a refused transaction that leaves something behind", func(ctx context.Context, s store, c call) (answer, error) {
			a, err := s.do(ctx, c)
			if err == nil && a.refused && len(c.changes) > 1 {
				rest := call{group: c.group, changes: []change{c.changes[0]}}
				rest.changes[0].when = always
				_, err = s.do(ctx, rest)
			}
			return a, err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			clear(t, s)
			h := newHistory()
			record(t, h, &broken{s, test.fault}, calls)
			operations, err := h.made()
			require.NoError(t, err)
			result, _ := porcupine.CheckOperationsVerbose(model, operations, patience)
			require.Equal(t, porcupine.Illegal, result)
		})
	}
	t.Run("none", func(t *testing.T) {
		clear(t, s)
		h := newHistory()
		record(t, h, &broken{s, func(ctx context.Context, s store, c call) (answer, error) { return s.do(ctx, c) }}, calls)
		operations, err := h.made()
		require.NoError(t, err)
		require.NoError(t, versions(operations))
		require.Equal(t, porcupine.Ok, check(t, operations))
	})
}

// clear deletes every key.
func clear(t *testing.T, s store) {
	t.Helper()
	for group := range groups {
		for key := range groupSize {
			_, err := s.do(t.Context(), call{group: group, changes: []change{{key: key, delete: true}}})
			require.NoError(t, err)
		}
	}
}

// stale answers some reads of a key with what was read of it some writes ago.
func stale() func(ctx context.Context, s store, c call) (answer, error) {
	var mu sync.Mutex
	var reads int
	early := make(map[string]answer)
	return func(ctx context.Context, s store, c call) (answer, error) {
		a, err := s.do(ctx, c)
		if err != nil || len(c.reads) != 1 {
			return a, err
		}
		mu.Lock()
		defer mu.Unlock()
		key := name(0, c.group, c.reads[0])
		reads++
		if old, ok := early[key]; ok && reads%10 == 0 {
			return old, nil
		}
		if reads%3 == 0 {
			early[key] = a
		}
		return a, nil
	}
}
