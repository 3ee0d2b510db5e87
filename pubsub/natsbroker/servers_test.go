package natsbroker

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// A server that was the stream's leader goes on answering while there is no other, as when max_file_store is reached.
func TestAStreamWithoutALeaderDoesNotServe(t *testing.T) {
	t.Parallel()
	peers := []*jetstream.PeerInfo{{Name: "n1"}, {Name: "n2", Offline: true}}
	for _, one := range []struct {
		info *jetstream.ClusterInfo
		want map[string]bool
	}{
		{nil, map[string]bool{}},
		{&jetstream.ClusterInfo{Leader: "n0", Replicas: peers}, map[string]bool{"n0": true, "n1": true, "n2": false}},
	} {
		have, err := serversOf(&jetstream.StreamInfo{Cluster: one.info})
		require.NoError(t, err)
		require.Equal(t, one.want, have)
	}
	_, err := serversOf(&jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Replicas: peers}})
	require.ErrorIs(t, err, errNoLeader)
}
