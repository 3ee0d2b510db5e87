package cluster_test

import (
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A sidecar hears how many operations the servers take in a transaction, and not how many a file does.
func TestTheSidecarHearsWhatTheServersTake(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	c := newClient(t, bolt)
	require.NoError(t, c.InitState(t.Context(), etcd.Metadata()...))
	answer, err := proto.NewTransactionalStoreMultiMaxSizeClient(c.Conn).MultiMaxSize(t.Context(), &proto.MultiMaxSizeRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 4096/2-1, answer.GetMaxSize())
}

// Fewer servers than replicas are refused with the name of the key.
func TestTooFewServersForTheReplicas(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	c := newClient(t, bolt)
	require.ErrorContains(t, c.InitPubSub(t.Context(), nats.Metadata("replicas", "3")...), "make it with replicas 3: ")
}
