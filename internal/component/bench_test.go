package component

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// What these benchmarks count includes the client, which shares the process. So each also runs against a bare gRPC
// server that answers with the same messages and does nothing else: the difference is what is ours.

const (
	benchClients = 64
	benchKeys    = 10_000
	benchSize    = 1 << 10
)

// benchSidecar is one connection, with its instances.
type benchSidecar struct {
	proto.StateStoreClient
	bus proto.PubSubClient
	ctx context.Context
	// waiting makes n events wait for the connection's consumer group.
	waiting func(n int)
}

func connect(t testing.TB, socket string) *benchSidecar {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &benchSidecar{
		proto.NewStateStoreClient(conn), proto.NewPubSubClient(conn),
		metadata.AppendToOutgoingContext(context.Background(), instanceHeader, "bench"), func(int) {},
	}
}

// connectOurs connects to a server as it runs by default, which logs from information on.
func connectOurs(t testing.TB) *benchSidecar {
	h := newHouse(t, func(h *house) { h.level = slog.LevelInfo })
	c := connect(t, h.server.SocketPath())
	_, err := c.Init(c.ctx, &proto.InitRequest{})
	require.NoError(t, err)
	_, err = c.bus.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "bench"}}})
	require.NoError(t, err)
	c.waiting = func(n int) {
		broker, err := h.manager.Broker(c.ctx, databases.DefaultDatabase, databases.DefaultPubSubBucket)
		require.NoError(t, err)
		for sent := 0; sent < n; sent += 1000 {
			events := make([]pubsub.Message, min(1000, n-sent))
			for i := range events {
				events[i].Data = make([]byte, benchSize)
			}
			for _, err := range broker.Publish(c.ctx, "t", events, pubsub.PublishOptions{}) {
				require.NoError(t, err)
			}
		}
	}
	return c
}

func connectBare(t testing.TB) *benchSidecar {
	path := filepath.Join(shortDir(t), "bare.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := grpc.NewServer()
	proto.RegisterStateStoreServer(server, &bareState{value: make([]byte, benchSize)})
	proto.RegisterPubSubServer(server, &barePubSub{data: make([]byte, benchSize)})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
	return connect(t, path)
}

type bareState struct {
	proto.UnimplementedStateStoreServer
	value []byte
}

func (*bareState) Ping(context.Context, *proto.PingRequest) (*proto.PingResponse, error) {
	return &proto.PingResponse{}, nil
}

func (*bareState) Set(context.Context, *proto.SetRequest) (*proto.SetResponse, error) {
	return &proto.SetResponse{}, nil
}

func (s *bareState) Get(context.Context, *proto.GetRequest) (*proto.GetResponse, error) {
	return &proto.GetResponse{Data: s.value, Etag: &proto.Etag{Value: "12345"}}, nil
}

type barePubSub struct {
	proto.UnimplementedPubSubServer
	data []byte
}

func (*barePubSub) Publish(context.Context, *proto.PublishRequest) (*proto.PublishResponse, error) {
	return &proto.PublishResponse{}, nil
}

func (p *barePubSub) PullMessages(stream proto.PubSub_PullMessagesServer) error {
	m := &proto.PullMessagesResponse{
		Data: p.data, TopicName: "t", Id: "00000000-0000-0000-0000-000000000000",
		Metadata: map[string]string{keyDeliveryCount: "1", keySequence: "12345", keyPublishTime: "2026-01-31T12:00:00.123456789Z"},
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// both runs a benchmark against our server and against a bare one.
func both(b *testing.B, run func(b *testing.B, c *benchSidecar)) {
	b.Run("ours", func(b *testing.B) { run(b, connectOurs(b)) })
	b.Run("bare", func(b *testing.B) { run(b, connectBare(b)) })
}

// inParallel makes calls from 64 clients on one connection, each with a number that is never the same.
func inParallel(b *testing.B, call func(i int64) error) {
	b.Helper()
	var n atomic.Int64
	b.SetParallelism((benchClients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	measure(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// measure begins what is counted. The processor's time says more than the clock's where a disk, or what else the machine
// does, holds things up.
func measure(b *testing.B) {
	begun := processorTime(b)
	b.Cleanup(func() { b.ReportMetric(float64(processorTime(b)-begun)/float64(b.N), "cpu-ns/op") })
	b.ReportAllocs()
	b.ResetTimer()
}

func processorTime(b *testing.B) int64 {
	var used unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return used.Utime.Nano() + used.Stime.Nano()
}

func benchKey(i int64) string { return "bench||key-" + strconv.FormatInt(i*7919%benchKeys, 10) }

func BenchmarkPing(b *testing.B) {
	both(b, func(b *testing.B, c *benchSidecar) {
		inParallel(b, func(int64) error {
			_, err := c.Ping(c.ctx, &proto.PingRequest{})
			return err
		})
	})
}

func BenchmarkSet(b *testing.B) {
	value := make([]byte, benchSize)
	both(b, func(b *testing.B, c *benchSidecar) {
		inParallel(b, func(i int64) error {
			_, err := c.Set(c.ctx, &proto.SetRequest{Key: benchKey(i), Value: value})
			return err
		})
	})
}

func BenchmarkGet(b *testing.B) {
	both(b, func(b *testing.B, c *benchSidecar) {
		var sets []*proto.SetRequest
		for i := range int64(benchKeys) {
			sets = append(sets, &proto.SetRequest{Key: benchKey(i), Value: make([]byte, benchSize)})
		}
		// The bare server has no BulkSet, and needs none.
		_, _ = c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: sets})
		inParallel(b, func(i int64) error {
			answer, err := c.Get(c.ctx, &proto.GetRequest{Key: benchKey(i)})
			if err == nil && len(answer.GetData()) != benchSize {
				return fmt.Errorf("a value of %d bytes", len(answer.GetData()))
			}
			return err
		})
	})
}

func BenchmarkPublish(b *testing.B) {
	data := make([]byte, benchSize)
	both(b, func(b *testing.B, c *benchSidecar) {
		inParallel(b, func(i int64) error {
			_, err := c.bus.Publish(c.ctx, &proto.PublishRequest{Topic: "t", Data: data, Metadata: map[string]string{keyEventID: strconv.FormatInt(i, 10)}})
			return err
		})
	})
}

// BenchmarkDeliver takes waiting events from one stream and acknowledges one before it reads the next, as a sidecar does.
func BenchmarkDeliver(b *testing.B) {
	both(b, func(b *testing.B, c *benchSidecar) {
		c.waiting(b.N)
		measure(b)
		require.NoError(b, c.deliver("t", b.N))
	})
}

// deliver takes n events and acknowledges them.
func (c *benchSidecar) deliver(topic string, n int) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	stream, err := c.bus.PullMessages(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: topic}}); err != nil {
		return err
	}
	for range n {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}); err != nil {
			return err
		}
	}
	return nil
}
