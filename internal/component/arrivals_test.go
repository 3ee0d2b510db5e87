package component

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// settled waits until nothing is counted, although connections are open.
func settled(t *testing.T, a *arrivals) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		a.mu.Lock()
		defer a.mu.Unlock()
		require.Equal(c, tally{}, a.open)
		require.Equal(c, tally{}, a.left)
		for conn := range a.conns {
			require.Nil(c, conn.oldest)
		}
	}, 10*time.Second, time.Millisecond)
}

// arriving waits until calls of so many bytes at least are open.
func arriving(t *testing.T, a *arrivals, calls int, bytes int64) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		a.mu.Lock()
		defer a.mu.Unlock()
		require.Equal(c, calls, a.open.calls)
		require.GreaterOrEqual(c, a.open.bytes, bytes)
	}, 10*time.Second, time.Millisecond)
}

// settledBytes waits until nothing is underway.
func settledBytes(t *testing.T, a *arrivals) {
	t.Helper()
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.open.bytes == 0
	}, 10*time.Second, time.Millisecond)
}

// raw is a codec that sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "proto" }

var _ encoding.Codec = raw{}

// TestNothingIsCountedForCallsThatAreOver ends calls in every way there is.
func TestNothingIsCountedForCallsThatAreOver(t *testing.T) {
	const set, pull = proto.StateStore_Set_FullMethodName, proto.PubSub_PullMessages_FullMethodName
	unary := func(c *sidecar, method string, message []byte, opts ...grpc.CallOption) error {
		var answer []byte
		return c.conn.Invoke(c.ctx, method, &message, &answer, append(opts, grpc.ForceCodec(raw{}))...)
	}
	for name, run := range map[string]func(t *testing.T, h *house, c *sidecar){
		"served": func(t *testing.T, _ *house, c *sidecar) { require.NoError(t, c.set("k", "v")) },
		"a large one served": func(t *testing.T, _ *house, c *sidecar) {
			require.NoError(t, c.set("k", string(make([]byte, 3<<20))))
		},
		"an unknown method": func(t *testing.T, _ *house, c *sidecar) {
			require.Equal(t, codes.Unimplemented, status.Code(unary(c, "/no/such", make([]byte, 1<<20))))
		},
		"not a message": func(t *testing.T, _ *house, c *sidecar) {
			require.Equal(t, codes.Internal, status.Code(unary(c, set, []byte{0xff})))
		},
		"too large": func(t *testing.T, _ *house, c *sidecar) {
			require.Equal(t, codes.ResourceExhausted, status.Code(unary(c, set, make([]byte, maxReceive+1))))
		},
		"headers too large": func(t *testing.T, _ *house, c *sidecar) {
			c.ctx = metadata.AppendToOutgoingContext(c.ctx, "x", string(make([]byte, 2*maxHeaders)))
			require.Error(t, c.set("k", "v"))
		},
		"a deadline": func(t *testing.T, h *house, c *sidecar) {
			ctx, cancel := context.WithTimeout(c.ctx, 50*time.Millisecond)
			defer cancel()
			s := open(t, ctx, c, set)
			arriving(t, h.server.arrivals, 1, callCost)
			require.Equal(t, codes.DeadlineExceeded, status.Code(s.RecvMsg(new([]byte))))
		},
		"given up": func(t *testing.T, h *house, c *sidecar) {
			ctx, cancel := context.WithCancel(c.ctx)
			s := open(t, ctx, c, set)
			arriving(t, h.server.arrivals, 1, callCost)
			cancel()
			require.Equal(t, codes.Canceled, status.Code(s.RecvMsg(new([]byte))))
		},
		"the connection closed": func(t *testing.T, h *house, c *sidecar) {
			open(t, c.ctx, c, set)
			arriving(t, h.server.arrivals, 1, callCost)
			require.NoError(t, c.conn.Close())
		},
		"the server stopped": func(t *testing.T, h *house, c *sidecar) {
			open(t, c.ctx, c, set)
			arriving(t, h.server.arrivals, 1, callCost)
			h.stop()
		},
		"a subscription": func(t *testing.T, h *house, c *sidecar) {
			s := c.pull(t, "t")
			for i := range 20 {
				require.NoError(t, c.publish("t", fmt.Sprint(i)))
				s.ack(s.next().GetId())
			}
			require.NoError(t, s.Send(&proto.PullMessagesRequest{AckMessageId: string(make([]byte, 1<<20))}))
			require.EventuallyWithT(t, func(check *assert.CollectT) {
				a := h.server.arrivals
				a.mu.Lock()
				defer a.mu.Unlock()
				require.Equal(check, tally{calls: 1}, a.open, "it is open, and all it sent was read")
			}, 10*time.Second, time.Millisecond)
			s.cancel()
		},
		"a subscription that never says what it wants": func(t *testing.T, h *house, c *sidecar) {
			ctx, cancel := context.WithCancel(c.ctx)
			open(t, ctx, c, pull)
			arriving(t, h.server.arrivals, 1, 0)
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			a := h.server.arrivals
			c := h.store("a")
			_, err := c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "a"}}})
			require.NoError(t, err)
			run(t, h, c)
			settled(t, a)
			_ = c.conn.Close()
			require.EventuallyWithT(t, func(check *assert.CollectT) {
				a.mu.Lock()
				defer a.mu.Unlock()
				require.Empty(check, a.conns)
				require.Empty(check, a.senders)
			}, 10*time.Second, time.Millisecond)
		})
	}
}

// open begins a call, and sends nothing.
func open(t *testing.T, ctx context.Context, c *sidecar, method string) grpc.ClientStream {
	t.Helper()
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(raw{}))
	require.NoError(t, err)
	return s
}

func TestTooManyCalls(t *testing.T) {
	const most = 5
	clock := clockwork.NewFakeClock()
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxCalls, o.Clock = most, clock } })
	c := h.store("a")
	bus := h.bus("b", "consumerID", "b")
	a := h.server.arrivals
	settled(t, a)
	var arrivingCalls []grpc.ClientStream
	for i := range most {
		arrivingCalls = append(arrivingCalls, open(t, c.ctx, c, proto.StateStore_Set_FullMethodName))
		arriving(t, a, i+1, 0)
	}
	require.NoError(t, c.set("k", "v"), "there is room for it")
	err := arrivingCalls[0].RecvMsg(new([]byte))
	require.ErrorContains(t, err, "too many calls at once: --max-calls allows no more than 5 to be open")
	require.Contains(t, h.log.String(), "ended a call whose request was still arriving")
	require.Contains(t, h.log.String(), "method=/dapr.proto.components.v1.StateStore/Set bytes=8192")
	require.Contains(t, h.log.String(), "from=\"process ")

	// Subscriptions make way for nobody.
	for i := range most {
		bus.pull(t, "t")
		require.Eventually(t, func() bool {
			h.server.mu.Lock()
			defer h.server.mu.Unlock()
			return len(h.server.pulls) == i+1
		}, 10*time.Second, time.Millisecond)
	}
	for _, each := range arrivingCalls[1:] {
		require.ErrorContains(t, each.RecvMsg(new([]byte)), "--max-calls")
	}
	timed := c.ctx
	require.ErrorContains(t, c.set("k", "v"), "too many calls at once", "with a deadline")
	c.ctx = metadata.NewOutgoingContext(context.Background(), metadata.Pairs(instanceHeader, "a"))
	err = c.set("k", "v")
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "too many calls at once: --max-calls allows no more than 5 to be open")
	require.Equal(t, 1, strings.Count(h.log.String(), "ended a call whose request was still arriving"), "once in a second")
	clock.Advance(quietFor)
	c.ctx = timed
	require.Error(t, c.set("k", "v"))
	require.Regexp(t, `ended a call whose request was still arriving.* before=5 `, h.log.String())
}

// What does not fit beside others does alone, and who has little underway gets through past who has much and never ends.
func TestUnfinishedRequestsMakeRoom(t *testing.T) {
	const limit, part = 1 << 20, 60 << 10
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes = limit } })
	a := h.server.arrivals
	c := h.store("a")
	require.NoError(t, c.set("k", string(make([]byte, 3*limit))), "one alone always fits")
	settled(t, a)
	stalled := h.rawClient(t)
	const calls = 13
	for range calls {
		unfinished(t, stalled, proto.StateStore_Set_FullMethodName, limit, part)
	}
	arriving(t, a, calls, calls*part)
	for range 5 {
		require.NoError(t, c.set("k", string(make([]byte, limit/4))))
	}
	require.Contains(t, h.log.String(), "ended a call whose request was still arriving")
}

// What a subscription sends is bounded as requests are.
func TestASubscriptionIsEvicted(t *testing.T) {
	const limit, part = 1 << 20, 60 << 10
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes = limit } })
	a := h.server.arrivals
	c := h.rawClient(t)
	first := c.begin(t, proto.PubSub_Init_FullMethodName)
	c.send(t, first, true, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "a"}}})
	require.Empty(t, c.answer(t, first))
	stream := c.begin(t, proto.PubSub_PullMessages_FullMethodName)
	c.send(t, stream, false, &proto.PullMessagesRequest{Topic: &proto.Topic{Name: "t"}})
	arriving(t, a, 1, 0)
	settledBytes(t, a)
	c.sendPart(t, stream, limit, part)
	arriving(t, a, 1, part)
	// The others belong to the same process, and have less each.
	for range limit / (40 << 10) {
		unfinished(t, h.rawClient(t), proto.StateStore_Set_FullMethodName, limit, 40<<10)
	}
	require.Contains(t, c.answer(t, stream), "too many requests at once: what is still arriving takes too much; --max-request-bytes allows no more than 1048576")
}

// A sidecar may read nothing until it has written all it has to: what it sends is read meanwhile, or neither side would
// ever go on (https://github.com/grpc/grpc-go/issues/9330).
func TestCallsAreReadWhileTheirAnswersAreNot(t *testing.T) {
	const calls, value = 5_000, 2 << 20
	h := newHouse(t)
	require.NoError(t, h.store("a").set("k", string(make([]byte, value))))
	c := h.rawClient(t)
	require.NoError(t, c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * value}))
	require.NoError(t, c.WriteWindowUpdate(0, 2*value))
	first := c.begin(t, proto.StateStore_Init_FullMethodName)
	c.send(t, first, true, &proto.InitRequest{Metadata: &proto.MetadataRequest{}})
	require.Empty(t, c.answer(t, first))

	c.send(t, c.begin(t, proto.StateStore_Get_FullMethodName), true, &proto.GetRequest{Key: "k"})
	// That fills what lies between the two. The deadline is for a test that hangs.
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Minute)))
	for range calls {
		c.send(t, c.begin(t, proto.StateStore_Ping_FullMethodName), true, &proto.PingRequest{})
	}
	for ended := 0; ended <= calls; {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		if headers, ok := f.(*http2.MetaHeadersFrame); ok && headers.StreamEnded() {
			ended++
		}
	}
}

// A client that reads none of its answers can have as much left behind as is allowed, and no more.
func TestAConnectionThatIsNotReadIsClosed(t *testing.T) {
	a := testArrivals(1<<20, 10)
	read, unread := &modelConn{frameConn: newFrameConn(&recorded{}, a, access.Process{})}, &modelConn{frameConn: newFrameConn(&recorded{}, a, access.Process{})}
	require.NoError(t, read.read(headersOf(1)))
	for i := range uint32(10) {
		require.False(t, unread.closed)
		require.NoError(t, unread.read(headersOf(2*i+1)))
	}
	require.True(t, unread.closed)
	require.False(t, read.closed)
	require.Equal(t, tally{calls: 1}, a.left)
}

// BenchmarkArrival is what a small call takes of all this.
func BenchmarkArrival(b *testing.B) {
	a := testArrivals(1<<30, 1000)
	c := newFrameConn(&recorded{}, a, access.Process{})
	ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: &connection{frames: c}})
	headers, data := headersOf(1), dataOf(1, 100, true)
	info := &tap.Info{FullMethodName: proto.StateStore_Get_FullMethodName}
	b.ReportAllocs()
	for b.Loop() {
		if c.read(headers) != nil || c.read(data) != nil {
			b.Fatal()
		}
		taken, err := a.tap(ctx, info)
		if err != nil || a.takeOver(arrivalOf(taken)) != nil {
			b.Fatal()
		}
		a.ended(c, headers.stream)
		headers.stream += 2
		data.stream += 2
	}
}
