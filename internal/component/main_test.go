package component

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
const patience = 5 * time.Minute

// house is a data directory, a socket folder, and the server on them that can be stopped and started anew.
type house struct {
	t       testing.TB
	dir     string
	clock   clockwork.Clock
	log     *logtest.Buffer
	level   slog.Level
	manager *databases.Manager
	backend Backend // default: manager
	// sidecars are the present server's.
	sidecars *sidecars.Registry
	options  func(*Options) // default: nothing is changed
	server   *Server
	served   chan error
}

// shortDir is a temporary folder with a path that leaves room for a socket's name.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "c")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func newHouse(t testing.TB, change ...func(*house)) *house {
	h := &house{t: t, dir: shortDir(t), clock: clockwork.NewRealClock(), log: &logtest.Buffer{}, level: slog.LevelDebug}
	for _, c := range change {
		c(h)
	}
	h.start()
	t.Cleanup(h.stop)
	return h
}

func (h *house) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: h.level}))
}

func (h *house) start() {
	h.t.Helper()
	ctx := h.t.Context()
	var err error
	h.manager, err = databases.Open(ctx, databases.Options{Dir: filepath.Join(h.dir, "data"), Clock: h.clock, Logger: h.logger()})
	require.NoError(h.t, err)
	backend := h.backend
	if backend == nil {
		backend = h.manager
	}
	h.sidecars, err = sidecars.Open(sidecars.Options{Dir: filepath.Join(h.dir, "data"), Clock: h.clock, Logger: h.logger()})
	require.NoError(h.t, err)
	opts := Options{
		SocketDir: filepath.Join(h.dir, "s"), Sidecars: h.sidecars, Backend: backend,
		Logger: h.logger(), Clock: h.clock,
	}
	if h.options != nil {
		h.options(&opts)
	}
	h.server, err = Listen(ctx, opts)
	require.NoError(h.t, err)
	h.served = make(chan error, 1)
	go func(s *Server) { h.served <- s.Serve() }(h.server)
	require.Eventually(h.t, func() bool { return h.server.Ready() == nil }, patience, time.Millisecond)
}

// stop ends what is running at once.
func (h *house) stop() {
	if h.server == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(h.t, h.server.Stop(ctx))
	require.NoError(h.t, <-h.served)
	require.NoError(h.t, h.manager.Close(context.Background()))
	h.server = nil
}

// sidecar is one connection with one component's name.
type sidecar struct {
	proto.StateStoreClient
	proto.TransactionalStateStoreClient
	proto.TransactionalStoreMultiMaxSizeClient
	pubsub proto.PubSubClient
	conn   *grpc.ClientConn
	ctx    context.Context
}

func (h *house) dial(component string) *sidecar {
	h.t.Helper()
	conn, err := grpc.NewClient("unix://"+h.server.SocketPath(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	h.t.Cleanup(cancel)
	return &sidecar{
		proto.NewStateStoreClient(conn), proto.NewTransactionalStateStoreClient(conn),
		proto.NewTransactionalStoreMultiMaxSizeClient(conn), proto.NewPubSubClient(conn), conn,
		metadata.AppendToOutgoingContext(ctx, instanceHeader, component),
	}
}

// store is a connection that has initialized its state store.
func (h *house) store(component string, properties ...string) *sidecar {
	h.t.Helper()
	c := h.dial(component)
	_, err := c.Init(c.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: pairs(properties)}})
	require.NoError(h.t, err)
	return c
}

// bus is a connection that has initialized its pub/sub.
func (h *house) bus(component string, properties ...string) *sidecar {
	h.t.Helper()
	c := h.dial(component)
	_, err := c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: pairs(properties)}})
	require.NoError(h.t, err)
	return c
}

func pairs(list []string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

func (c *sidecar) set(key, value string) error {
	_, err := c.Set(c.ctx, &proto.SetRequest{Key: key, Value: []byte(value)})
	return err
}

func (c *sidecar) get(t *testing.T, key string) string {
	t.Helper()
	r, err := c.Get(c.ctx, &proto.GetRequest{Key: key})
	require.NoError(t, err)
	return string(r.GetData())
}

func (c *sidecar) publish(topic, data string, md ...string) error {
	_, err := c.pubsub.Publish(c.ctx, &proto.PublishRequest{Topic: topic, Data: []byte(data), Metadata: pairs(md)})
	return err
}

type stream struct {
	proto.PubSub_PullMessagesClient
	t      *testing.T
	cancel context.CancelFunc
}

func (c *sidecar) pull(t *testing.T, topic string, md ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	t.Cleanup(cancel)
	s, err := c.pubsub.PullMessages(ctx)
	require.NoError(t, err)
	// A stream that is refused at once may have ended by now: Recv says why.
	if err := s.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: topic, Metadata: pairs(md)}}); !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	return &stream{s, t, cancel}
}

func (s *stream) next() *proto.PullMessagesResponse {
	s.t.Helper()
	m, err := s.Recv()
	require.NoError(s.t, err)
	return m
}

func (s *stream) ack(id string) {
	s.t.Helper()
	require.NoError(s.t, s.Send(&proto.PullMessagesRequest{AckMessageId: id}))
}

func (s *stream) nack(id, text string) {
	s.t.Helper()
	require.NoError(s.t, s.Send(&proto.PullMessagesRequest{AckMessageId: id, AckError: &proto.AckMessageError{Message: text}}))
}

// staleSocket leaves a socket's file behind at which nobody listens.
func staleSocket(t *testing.T, path string) {
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}
