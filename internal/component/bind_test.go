package component

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

func (h *house) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// Sidecars dial again after a restart, but do not call Init again.
func TestInitSurvivesARestart(t *testing.T) {
	h := newHouse(t)
	require.NoError(t, h.store("store", "bucket", "mine").set("k", "v"))
	require.NoError(t, h.bus("bus", "consumerID", "app", "bucket", "mine").publish("t", "1"))
	h.restart()

	c := h.dial("store")
	require.Equal(t, "v", c.get(t, "k"))
	require.NoError(t, c.set("k", "w"))
	c = h.dial("bus")
	require.NoError(t, c.publish("t", "2"))
	s := c.pull(t, "t")
	require.Equal(t, "1", string(s.next().GetData()))
	require.Equal(t, "2", string(s.next().GetData()))
	_, err := c.pubsub.Pause(c.ctx, &proto.PauseRequest{})
	require.NoError(t, err)
}

func TestCallsWithoutInit(t *testing.T) {
	h := newHouse(t)
	c := h.dial("a")
	_, pingErr := c.pubsub.Ping(c.ctx, &proto.PingRequest{})
	_, pullErr := c.pull(t, "t").Recv()
	for _, err := range []error{c.set("k", "v"), c.publish("t", "1"), pingErr, pullErr} {
		require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
		require.ErrorContains(t, err, "restart the sidecar")
	}
}

// Sidecars that cannot be told apart are served as far as it makes no difference which one calls.
func TestCallsOfSidecarsThatCannotBeToldApart(t *testing.T) {
	h := newHouse(t, func(h *house) {
		h.options = func(o *Options) { o.peerOf = func(net.Conn) access.Process { return access.Process{} } }
	})
	h.store("alike", "bucket", "x")
	require.NoError(t, h.store("alike", "Bucket", "x", "scopes", "other words for the same").set("k", "v"))
	h.store("different", "bucket", "x")
	h.store("different", "bucket", "y")
	h.bus("groups", "consumerID", "a")
	h.bus("groups", "consumerID", "b")
	h.bus("different", "consumerID", "a", "dedupBy", "data")
	h.bus("different", "consumerID", "a", "dedupBy", "none")
	h.restart()

	require.Equal(t, "v", h.dial("alike").get(t, "k"))
	groups, different := h.dial("groups"), h.dial("different")
	require.NoError(t, groups.publish("t", "1"))
	_, pullErr := groups.pull(t, "t").Recv()
	_, pauseErr := groups.pubsub.Pause(groups.ctx, &proto.PauseRequest{})
	for _, err := range []error{different.set("k", "v"), different.publish("t", "1"), pullErr, pauseErr} {
		require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
		require.ErrorContains(t, err, "restart the sidecar")
	}
}

// A changed value makes a sidecar close its connection and initialize the component on another.
func TestASidecarThatCannotBeToldIsServedWithWhatItSaidLast(t *testing.T) {
	h := newHouse(t, func(h *house) {
		h.options = func(o *Options) { o.peerOf = func(net.Conn) access.Process { return access.Process{} } }
	})
	require.NoError(t, h.store("store", "bucket", "0").set("k", "0"))
	for i := 1; i < 4; i++ {
		h.restart()
		c := h.dial("store")
		require.Equal(t, fmt.Sprint(i-1), c.get(t, "k"))
		require.NoError(t, c.conn.Close())
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(h.sidecars.Sidecars(), func(s sidecars.Sidecar) bool { return s.Connected })
		}, patience, time.Millisecond, "the server has not seen yet that it is closed")
		require.NoError(t, h.store("store", "bucket", fmt.Sprint(i)).set("k", fmt.Sprint(i)))
	}
}

// A disk that cannot be written keeps no sidecar from starting.
func TestInitIsServedThoughItCannotBeWrittenDown(t *testing.T) {
	h := newHouse(t)
	file := filepath.Join(h.dir, "data", "sidecars.json")
	require.NoError(t, os.MkdirAll(filepath.Join(file, "in the way"), 0o700))
	require.NoError(t, h.store("store", "bucket", "mine").set("k", "v"))
	require.Contains(t, h.log.String(), "what a sidecar initialized could not be written down")
	require.NoError(t, os.RemoveAll(file))
	h.restart()
	require.ErrorContains(t, h.dial("store").set("k", "v"), "restart the sidecar")
}

func TestInitWithTooMuchMetadataIsRefused(t *testing.T) {
	h := newHouse(t)
	c := h.dial("store")
	_, err := c.Init(c.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"x": strings.Repeat("x", maxInitMetadata)}}})
	require.Equal(t, codes.InvalidArgument, status.Code(err), err)
	require.ErrorContains(t, err, "at most 65536 bytes")
}
