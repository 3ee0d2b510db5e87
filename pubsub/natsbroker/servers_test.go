package natsbroker

import (
	"bufio"
	"context"
	"fmt"
	"net"
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

// A server that is too old is refused, whether we are connected to it or it leads the stream, with its version and the one that
// it must have.
func TestServersThatAreTooOldAreRefused(t *testing.T) {
	t.Parallel()
	for version, refused := range map[string]bool{
		"2.12.15": true, "2.14.6": true, "2.14.7": false, "2.14.10": false, "2.15.0-RC.1": false, "3.0.0": false, "": true,
	} {
		err := checkConfig(&jetstream.StreamConfig{
			AllowAtomicPublish: true, AllowMsgSchedules: true, AllowMsgTTL: true, Metadata: map[string]string{"_nats.ver": version},
		})
		require.Equal(t, refused, err != nil, version)
	}
	_, err := Open(t.Context(), Options{URL: serverOfVersion(t, "2.14.6"), Prefix: "p", Bucket: "b"})
	require.ErrorContains(t, err, "nats-server 2.14.6")
	require.ErrorContains(t, err, "2.14.7 or newer")

	// The client library knows no version of a connection that was lost.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, Options{URL: serverOfVersion(t, ""), Prefix: "p", Bucket: "b"})
	require.ErrorIs(t, err, context.Canceled)
}

// serverOfVersion returns the URL of what says that it is a server of a version, and no more.
func serverOfVersion(t *testing.T, version string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "INFO {\"version\": %q, \"max_payload\": 8388608, \"headers\": true}\r\n", version)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if lines.Text() == "PING" {
				_, _ = fmt.Fprint(conn, "PONG\r\n")
			}
		}
	}()
	return "nats://" + listener.Addr().String()
}
