package crash_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var faults = flag.Int("faults", 10, "how many faults each cluster is given")

// faultsOfHistory is after how many faults a history ends: the writes of which nobody knows whether they took place make it
// hard to find an order.
const faultsOfHistory = 5

// turns is several processes on the same state, which the clients call in turn.
type turns struct {
	stores []store
	next   atomic.Uint64
}

func (t *turns) do(ctx context.Context, c call) (answer, error) {
	return t.stores[t.next.Add(1)%uint64(len(t.stores))].do(ctx, c)
}

// Two dapr-bolts, one of them through a sidecar as well, work on the same state in etcd while leaders, followers, they themselves
// and the sidecar are killed, paused and cut off.
func TestClusterCallsAreLinearizableWhateverFails(t *testing.T) {
	t.Parallel()
	const processes, callsBetween = 2, 300
	h := harness.ForTest(t)
	network := networkOf(t, h)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Network: network})
	settings := []string{"engine", "etcd", "endpoints", etcd.Endpoints(), "dialTimeout", "1m"} // calls fail soon
	var bolts []*harness.Bolt
	var direct []*harness.Client
	for i := range processes {
		name := fmt.Sprintf("dapr-bolt-%d", i)
		bolt := harness.StartBolt(t, h, harness.BoltOptions{Name: name, DataDir: h.Dir(name), SocketDir: filepath.Join(h.SocketDir(), name)})
		c, err := harness.Dial(boltSocket(bolt), "direct", grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		require.NoError(t, c.InitState(t.Context(), settings...))
		bolts, direct = append(bolts, bolt), append(direct, c)
	}
	// Without Dapr's prefix, its keys are those of the sockets.
	front := startSidecar(t, h, bolts[0], 0, harness.NewComponent("store", "state.bolt", append(settings, "keyPrefix", "none")...))
	othersLead := func(leader *harness.EtcdMember) {
		require.Eventually(t, func() bool {
			for _, m := range etcd.Servers {
				if m != leader && m.Leads(t.Context()) {
					return true
				}
			}
			return false
		}, patience, 100*time.Millisecond)
	}
	paused := func(leader *harness.EtcdMember) {
		leader.Pause()
		defer leader.Resume()
		othersLead(leader)
	}
	kinds := []struct {
		name string
		do   func(leader *harness.EtcdMember)
	}{
		{"the leader is killed", func(leader *harness.EtcdMember) { restart(t, leader) }},
		{"a dapr-bolt is killed", func(*harness.EtcdMember) {
			bolt := bolts[rand.IntN(processes)]
			bolt.Kill()
			require.NoError(t, bolt.Restart(t.Context()))
		}},
		{"a sidecar is killed", func(*harness.EtcdMember) { front.killed(t, func() {}) }},
		{"the leader is paused", paused},
		{"the leader is cut off", func(leader *harness.EtcdMember) {
			if network == nil {
				paused(leader)
				return
			}
			require.NoError(t, leader.CutOff(t.Context()))
			defer func() { require.NoError(t, leader.Reconnect(t.Context())) }()
			othersLead(leader)
		}},
		{"all servers are killed", func(*harness.EtcdMember) {
			for _, m := range etcd.Servers {
				m.Kill()
			}
			for _, m := range etcd.Servers {
				require.NoError(t, m.Start())
			}
		}},
		{"a server is killed", func(*harness.EtcdMember) { restart(t, etcd.Servers[rand.IntN(len(etcd.Servers))]) }},
	}

	for given, round := 0, 0; given < *faults; round++ {
		behind := &stateSidecar{sidecar: front, round: round}
		s := &turns{stores: []store{behind}}
		for _, c := range direct {
			s.stores = append(s.stores, &socket{c, round})
		}
		history := newHistory()
		stop := clients(t.Context(), callers, history, s)
		for range min(faultsOfHistory, *faults-given) {
			waitFor(t, history, history.len()+callsBetween)
			fault := kinds[given%len(kinds)]
			given++
			t.Logf("fault %d: %s", given, fault.name)
			var leader *harness.EtcdMember
			require.Eventually(t, func() (found bool) {
				l, err := etcd.Leader(t.Context())
				leader = l
				return err == nil
			}, patience, 100*time.Millisecond)
			fault.do(leader)
			require.NoError(t, etcd.WaitReady(t.Context()))
		}
		waitFor(t, history, history.len()+callsBetween)
		stop()
		require.Positive(t, behind.answered.Load())
		operations, err := history.made()
		require.NoError(t, err)
		require.NoError(t, versions(operations))
		unknown := 0
		for _, o := range operations {
			if o.Output.(answer).unknown {
				unknown++
			}
		}
		began := time.Now()
		require.Equal(t, porcupine.Ok, check(t, operations))
		fmt.Printf("%d calls to %d processes and a sidecar, of which %d were cut off, have an order, found in %s\n",
			len(operations), processes, unknown, time.Since(began).Round(time.Millisecond))
	}
}

func restart(t *testing.T, m *harness.EtcdMember) {
	m.Kill()
	require.NoError(t, m.Start())
}
