package component

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// settled waits until nothing is counted, although connections are open.
func settled(t *testing.T, s *Server) {
	t.Helper()
	l := s.limiter
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sweep()
		require.Zero(c, l.open)
		require.Zero(c, l.bytes)
		require.Zero(c, l.arriving.Len())
		require.Zero(c, s.answers.used())
	}, patience, time.Millisecond)
	for _, each := range []*workers{s.turns.small, s.turns.rest} {
		require.True(t, each.TryAcquire(s.turns.limit))
		each.Release(s.turns.limit)
	}
}

// arriving waits until so many calls are open, and so many bytes at least are arriving.
func arriving(t *testing.T, l *limiter, calls int, bytes int64) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		l.mu.Lock()
		defer l.mu.Unlock()
		require.Equal(c, calls, l.open)
		require.GreaterOrEqual(c, l.bytes, bytes)
	}, patience, time.Millisecond)
}

// read waits until nothing is arriving on the streams that are open.
func read(t *testing.T, l *limiter) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.bytes == 0 && l.arriving.Len() == 0
	}, patience, time.Millisecond)
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
		"a large answer": func(t *testing.T, _ *house, c *sidecar) {
			require.NoError(t, c.set("k", string(make([]byte, 3<<20))))
			require.Len(t, c.get(t, "k"), 3<<20)
		},
		"an answer that is not read": func(t *testing.T, h *house, c *sidecar) {
			require.NoError(t, c.set("k", string(make([]byte, 3<<20))))
			unread := h.rawClient(t)
			unread.initialize(t)
			unread.send(t, unread.begin(t, proto.StateStore_Get_FullMethodName), true, &proto.GetRequest{Key: "k"})
			require.Eventually(t, func() bool {
				calls, _ := h.server.limiter.used()
				return h.server.answers.used() >= 3<<20 && calls == 0
			}, patience, time.Millisecond)
			require.NoError(t, unread.Conn.Close())
		},
		"too large": func(t *testing.T, _ *house, c *sidecar) {
			require.Equal(t, codes.ResourceExhausted, status.Code(unary(c, set, make([]byte, maxReceive+1))))
		},
		"headers too large": func(t *testing.T, _ *house, c *sidecar) {
			c.ctx = metadata.AppendToOutgoingContext(c.ctx, "x", string(make([]byte, 2*maxHeaders)))
			require.Error(t, c.set("k", "v"))
		},
		"a deadline": func(t *testing.T, h *house, c *sidecar) {
			ends := h.rawClient(t)
			stream := ends.begin(t, set, hpack.HeaderField{Name: "grpc-timeout", Value: "50m"})
			for ended := false; !ended; { // by the server: it alone watches the time here
				f, err := ends.ReadFrame()
				require.NoError(t, err)
				reset, ok := f.(*http2.RSTStreamFrame)
				ended = ok && reset.StreamID == stream
			}
		},
		"given up": func(t *testing.T, h *house, c *sidecar) {
			ctx, cancel := context.WithCancel(c.ctx)
			s := open(t, ctx, c, set)
			arriving(t, h.server.limiter, 1, 0)
			cancel()
			require.Equal(t, codes.Canceled, status.Code(s.RecvMsg(new([]byte))))
		},
		"the connection closed": func(t *testing.T, h *house, c *sidecar) {
			open(t, c.ctx, c, set)
			arriving(t, h.server.limiter, 1, 0)
			require.NoError(t, c.conn.Close())
		},
		"the server stopped": func(t *testing.T, h *house, c *sidecar) {
			open(t, c.ctx, c, set)
			arriving(t, h.server.limiter, 1, 0)
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
				l := h.server.limiter
				l.mu.Lock()
				defer l.mu.Unlock()
				require.Equal(check, 1, l.open)
				require.Zero(check, l.bytes, "all it sent was read")
				require.Zero(check, l.arriving.Len())
			}, patience, time.Millisecond)
			s.cancel()
		},
		"a subscription that never says what it wants": func(t *testing.T, h *house, c *sidecar) {
			ctx, cancel := context.WithCancel(c.ctx)
			open(t, ctx, c, pull)
			arriving(t, h.server.limiter, 1, 0)
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			c := h.store("a")
			_, err := c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "a"}}})
			require.NoError(t, err)
			server := h.server
			run(t, h, c)
			settled(t, server)
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
	l := h.server.limiter
	settled(t, h.server)
	var arrivingCalls []grpc.ClientStream
	for i := range most {
		arrivingCalls = append(arrivingCalls, open(t, c.ctx, c, proto.StateStore_Set_FullMethodName))
		arriving(t, l, i+1, 0)
	}
	require.NoError(t, c.set("k", "v"), "there is room for it")
	err := arrivingCalls[0].RecvMsg(new([]byte))
	require.ErrorContains(t, err, "too many calls at once: --max-calls allows no more than 5 to be open")
	require.Contains(t, h.log.String(), "ended a call whose request was still arriving")
	require.Contains(t, h.log.String(), "method=/dapr.proto.components.v1.StateStore/Set bytes=0")
	require.Contains(t, h.log.String(), "from=\"process ")

	// Subscriptions make way for nobody.
	for i := range most {
		bus.pull(t, "t")
		require.Eventually(t, func() bool {
			h.server.mu.Lock()
			defer h.server.mu.Unlock()
			return len(h.server.pulls) == i+1
		}, patience, time.Millisecond)
	}
	for _, each := range arrivingCalls[1:] {
		require.ErrorContains(t, each.RecvMsg(new([]byte)), "--max-calls")
	}
	read(t, l)
	err = c.set("k", "v")
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "too many calls at once: --max-calls allows no more than 5 to be open")
	require.Equal(t, 1, strings.Count(h.log.String(), "ended a call whose request was still arriving"), "once in a second")
}

// Who sends in one go gets through past who has much underway and never ends.
func TestUnfinishedRequestsMakeRoom(t *testing.T) {
	const limit, part = 1 << 20, 60 << 10
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes = limit } })
	l := h.server.limiter
	c := h.store("a")
	require.NoError(t, c.set("k", string(make([]byte, 3*limit))), "one alone always fits")
	settled(t, h.server)
	stalled := h.rawClient(t)
	const calls = 13
	for range calls {
		unfinished(t, stalled, proto.StateStore_Set_FullMethodName, limit, part)
	}
	arriving(t, l, calls, calls*part)
	for range 5 {
		require.NoError(t, c.set("k", string(make([]byte, limit/4))))
	}
	require.Contains(t, h.log.String(), "ended a call whose request was still arriving")
}

func TestRequestsThatDoNotArriveAreEnded(t *testing.T) {
	clock := clockwork.NewFakeClock()
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.Clock = clock } })
	l := h.server.limiter
	bus := h.bus("b", "consumerID", "b")
	subscribed := bus.pull(t, "t")
	require.Eventually(t, func() bool {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		return len(h.server.pulls) == 1
	}, patience, time.Millisecond)
	read(t, l)
	c := h.rawClient(t)
	stream := c.begin(t, proto.StateStore_Set_FullMethodName)
	c.sendPart(t, stream, 1000, 500)
	arriving(t, l, 2, 500)
	clock.Advance(arriveWithin + sweepEvery)
	require.Contains(t, c.answer(t, stream), "it did not arrive, or it was not its turn, within 30s")
	require.NoError(t, bus.publish("t", "1"))
	require.Equal(t, "1", string(subscribed.next().GetData()), "a subscription may be quiet for as long as it likes")
}

// What a subscription sends is bounded as requests are.
func TestASubscriptionIsEvicted(t *testing.T) {
	const limit, part = 1 << 20, 60 << 10
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes = limit } })
	l := h.server.limiter
	c := h.rawClient(t)
	first := c.begin(t, proto.PubSub_Init_FullMethodName)
	c.send(t, first, true, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "a"}}})
	require.Empty(t, c.answer(t, first))
	stream := c.begin(t, proto.PubSub_PullMessages_FullMethodName)
	c.send(t, stream, false, &proto.PullMessagesRequest{Topic: &proto.Topic{Name: "t"}})
	arriving(t, l, 1, 0)
	read(t, l)
	c.sendPart(t, stream, limit, part)
	arriving(t, l, 1, part)
	for range limit / (40 << 10) {
		unfinished(t, h.rawClient(t), proto.StateStore_Set_FullMethodName, limit, 40<<10)
	}
	require.Contains(t, c.answer(t, stream), "too many requests at once: what is still arriving takes too much; --max-request-bytes allows no more than 1048576")
}

// Reads of much wait for their turn, so that what they build at once is bounded; reads of little do not wait for them.
func TestReadsOfMuchWaitForTheirTurn(t *testing.T) {
	const limit = 2 * receiveLimit
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes = limit } })
	c := h.store("a")
	require.NoError(t, c.set("k", "v"))
	require.True(t, h.server.turns.rest.TryAcquire(limit))
	answered := make(chan error, 1)
	go func() {
		_, err := c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: "k"}}})
		answered <- err
	}()
	arriving(t, h.server.limiter, 1, 1)
	require.NoError(t, c.set("k", "w"))
	require.Equal(t, "w", c.get(t, "k"))
	select {
	case <-answered:
		require.Fail(t, "it was not its turn")
	default:
	}
	h.server.turns.rest.Release(limit)
	require.NoError(t, <-answered)
	settled(t, h.server)
}

// Answers that nobody reads are kept, as far as there is room, and then their clients are cut off.
func TestUnreadAnswers(t *testing.T) {
	const value = 3 << 20
	const limit = 2*value + 1<<20
	clock := clockwork.NewFakeClock()
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.MaxRequestBytes, o.Clock = limit, clock } })
	c := h.store("a")
	require.NoError(t, c.set("k", string(make([]byte, value))))
	require.NoError(t, c.set("small", "v"))
	stalled := h.rawClient(t)
	stalled.initialize(t)
	for range 2 {
		stalled.send(t, stalled.begin(t, proto.StateStore_Get_FullMethodName), true, &proto.GetRequest{Key: "k"})
	}
	require.Eventually(t, func() bool { return h.server.answers.used() > 2*value }, patience, time.Millisecond)
	_, err := c.Get(c.ctx, &proto.GetRequest{Key: "k"})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	require.ErrorContains(t, err, "too many answers at once")
	require.Equal(t, "v", c.get(t, "small"), "small ones are not counted")
	clock.Advance(unreadFor)
	for range 5 {
		require.Len(t, c.get(t, "k"), value)
	}
	require.Contains(t, h.log.String(), "closed a connection whose client does not read what it is answered")
	settled(t, h.server)
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
	c.initialize(t)

	c.send(t, c.begin(t, proto.StateStore_Get_FullMethodName), true, &proto.GetRequest{Key: "k"})
	// That fills what lies between the two. The deadline is for a test that hangs.
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(patience)))
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

// blockingBackend keeps whoever asks it for a store until released is closed.
type blockingBackend struct {
	Backend
	asked, released chan struct{}
}

func (b blockingBackend) StateStoreAt(context.Context, servers.Place) (*statestore.Store, error) {
	close(b.asked)
	<-b.released
	return nil, errors.New("released")
}

// Some clients say in a frame of its own that they have sent all, maybe while they are served.
func TestACallThatIsServedIsNotEndedForItsRequest(t *testing.T) {
	clock := clockwork.NewFakeClock()
	backend := blockingBackend{asked: make(chan struct{}), released: make(chan struct{})}
	h := newHouse(t, func(h *house) { h.backend, h.options = backend, func(o *Options) { o.Clock = clock } })
	c := h.rawClient(t)
	stream := c.begin(t, proto.StateStore_Init_FullMethodName)
	c.send(t, stream, false, &proto.InitRequest{Metadata: &proto.MetadataRequest{}})
	<-backend.asked
	require.NoError(t, c.WriteData(stream, true, nil))
	// What comes behind it is answered once it was read.
	behind := c.begin(t, proto.StateStore_Features_FullMethodName)
	c.send(t, behind, true, &proto.FeaturesRequest{})
	require.Empty(t, c.answer(t, behind))
	clock.Advance(arriveWithin + sweepEvery)
	read(t, h.server.limiter)
	close(backend.released)
	require.Contains(t, c.answer(t, stream), "released")
	require.NotContains(t, h.log.String(), "still arriving")
}

type panickingBackend struct{ Backend }

func (panickingBackend) StateStoreAt(context.Context, servers.Place) (*statestore.Store, error) {
	panic("no store")
}

func TestAPanicLeavesNothingCounted(t *testing.T) {
	h := newHouse(t, func(h *house) { h.backend = panickingBackend{} })
	c := h.dial("a")
	_, err := c.Init(c.ctx, &proto.InitRequest{})
	require.ErrorContains(t, err, "the call panicked; see the log of dapr-bolt")
	require.Contains(t, h.log.String(), "no store")
	settled(t, h.server)
}
