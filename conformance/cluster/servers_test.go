package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A cluster comes up, loses its leader, and has it back.
func TestServers(t *testing.T) {
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		h := harness.ForTest(t)
		etcd := harness.StartEtcd(t, h, harness.ClusterOptions{})
		leader, err := etcd.Leader(t.Context())
		require.NoError(t, err)
		leader.Kill()
		for _, m := range etcd.Servers {
			if m != leader {
				require.NoError(t, m.WaitReady(t.Context()))
			}
		}
		require.NoError(t, leader.Start())
		require.NoError(t, etcd.WaitReady(t.Context()))
		leader.Pause()
		leader.Resume()
		require.NoError(t, etcd.WaitReady(t.Context()))
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		h := harness.ForTest(t)
		nats := harness.StartNATS(t, h, harness.ClusterOptions{})
		leader, err := nats.Leader(t.Context())
		require.NoError(t, err)
		leader.Kill()
		require.NoError(t, leader.Start())
		require.NoError(t, nats.WaitReady(t.Context()))
	})
}

// A server that is cut off is not heard of by the others, who lead without it, and is one of them again afterwards.
func TestAServerIsCutOff(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	network, err := h.Network(t.Context())
	if err != nil {
		t.Skipf("this machine has no namespaces for servers: %v", err)
	}
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Network: network})
	leader, err := etcd.Leader(t.Context())
	require.NoError(t, err)
	require.NoError(t, leader.CutOff(t.Context()))
	require.Eventually(t, func() bool {
		for _, m := range etcd.Servers {
			if m != leader && m.Leads(t.Context()) {
				return true
			}
		}
		return false
	}, waitLong, 20*time.Millisecond)
	require.False(t, leader.Leads(t.Context()), "it cannot be asked")
	require.NoError(t, leader.Reconnect(t.Context()))
	require.NoError(t, etcd.WaitReady(t.Context()))
}
