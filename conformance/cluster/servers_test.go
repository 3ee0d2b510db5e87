package cluster_test

import (
	"testing"

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
