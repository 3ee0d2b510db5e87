package component

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
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
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	googleproto "google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// modelConn is a connection of the model, with what was begun on it.
type modelConn struct {
	*frameConn
	ctx   context.Context
	next  uint32
	calls []*arrival
}

func headersOf(stream uint32) frame { return frame{kind: http2.FrameHeaders, stream: stream} }

func dataOf(stream uint32, length int64, end bool) frame {
	f := frame{kind: http2.FrameData, stream: stream, length: length}
	if end {
		f.flags = http2.FlagDataEndStream
	}
	return f
}

// TestArrivalsAreCountedUntilTheyAreGone does at random what clients, gRPC and handlers do, and holds the sums to what
// they are sums of.
func TestArrivalsAreCountedUntilTheyAreGone(t *testing.T) {
	const limit, calls = 1 << 20, 8
	rapid.Check(t, func(t *rapid.T) {
		a := testArrivals(limit, calls)
		conns := make([]*modelConn, 3)
		connect := func(i int) {
			c := &modelConn{frameConn: newFrameConn(&recorded{}, a), next: 1}
			c.peer = process{PID: i / 2} // one is not known, and one has two
			c.ctx = peer.NewContext(context.Background(), &peer.Peer{AuthInfo: &connection{frames: c.frameConn}})
			conns[i] = c
		}
		for i := range conns {
			connect(i)
		}
		anyConn := func(t *rapid.T) *modelConn { return conns[rapid.IntRange(0, len(conns)-1).Draw(t, "connection")] }
		anyCall := func(t *rapid.T) *arrival {
			c := anyConn(t)
			if len(c.calls) == 0 {
				t.Skip("nothing was begun")
			}
			return c.calls[rapid.IntRange(0, len(c.calls)-1).Draw(t, "call")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				c := anyConn(t)
				require.NoError(t, c.read(headersOf(c.next)))
				c.next += 2
				if rapid.IntRange(0, 9).Draw(t, "gRPC refuses it") == 0 {
					return
				}
				ctx := c.ctx
				if rapid.Bool().Draw(t, "timed") {
					timed, cancel := context.WithTimeout(ctx, time.Hour)
					defer cancel()
					ctx = context.WithoutCancel(timed)
				}
				k := c.current
				got, err := a.tap(ctx, &tap.Info{FullMethodName: "/m"})
				if err == nil {
					require.Same(t, k, got)
					c.calls = append(c.calls, k)
				}
				c.handled()
			},
			"data": func(t *rapid.T) {
				k := anyCall(t)
				require.NoError(t, k.conn.read(dataOf(k.id, rapid.Int64Range(0, limit/2).Draw(t, "length"), rapid.Bool().Draw(t, "end"))))
			},
			"take over": func(t *rapid.T) {
				k := anyCall(t)
				if err := a.takeOver(k); err != nil {
					require.Error(t, k.evicted)
				}
			},
			"stream": func(t *rapid.T) { _ = a.beginStream(anyCall(t), rapid.Bool().Draw(t, "idle")) },
			"receive": func(t *rapid.T) {
				if k := anyCall(t); k.stream {
					a.received(k, rapid.Int64Range(0, limit).Draw(t, "size"))
				}
			},
			"end": func(t *rapid.T) { k := anyCall(t); a.ended(k.conn, k.id) },
			"reset": func(t *rapid.T) {
				k := anyCall(t)
				require.NoError(t, k.conn.read(frame{kind: http2.FrameRSTStream, stream: k.id}))
				k.conn.handled()
			},
			"close": func(t *rapid.T) {
				i := rapid.IntRange(0, len(conns)-1).Draw(t, "connection")
				require.NoError(t, conns[i].Close())
				connect(i)
			},
			"": func(t *rapid.T) { checkSums(t, a) },
		})
		for _, c := range conns {
			require.NoError(t, c.Close())
			for _, k := range c.calls {
				require.Error(t, k.Err(), "its context has ended")
			}
		}
		require.Equal(t, tally{}, a.open)
		require.Equal(t, tally{}, a.left)
		require.Empty(t, a.conns)
		require.Empty(t, a.senders)
	})
}

func checkSums(t *rapid.T, a *arrivals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var open, left tally
	bySender := make(map[*sender]int64)
	evictable := 0
	for c := range a.conns {
		var mine, mineLeft tally
		listed := 0
		for _, k := range c.calls {
			require.NotEqual(t, callEnded, k.state)
			require.GreaterOrEqual(t, k.held, int64(0))
			if k.state == callOpen {
				mine.add(1, k.cost())
			} else {
				mineLeft.add(1, k.cost())
				require.False(t, k.listed)
			}
			if k.listed {
				listed++
			}
		}
		require.Equal(t, mine.bytes, c.bytes)
		require.Equal(t, mineLeft, c.left)
		open.add(mine.calls, mine.bytes)
		left.add(mineLeft.calls, mineLeft.bytes)
		bySender[c.sender] += c.bytes
		var newest *arrival
		for k := c.oldest; k != nil; k = k.newer {
			require.Same(t, newest, k.older)
			newest = k
			listed--
			evictable++
		}
		require.Same(t, newest, c.newest)
		require.Zero(t, listed)
	}
	require.Equal(t, open, a.open)
	require.Equal(t, left, a.left)
	for _, s := range a.senders {
		require.Equal(t, bySender[s], s.bytes)
	}
	require.LessOrEqual(t, open.calls, a.maxCalls)
	require.LessOrEqual(t, left.calls, a.maxCalls)
	require.LessOrEqual(t, left.bytes, a.limit)
	if open.bytes > a.limit {
		require.LessOrEqual(t, evictable, 1, "one alone, or none that may be evicted")
	}
}

// The one that began first goes, of the process that has most, on its connection that has most.
func TestWhoIsEvicted(t *testing.T) {
	a := testArrivals(1<<20, 100)
	begin := func(pid int) *modelConn {
		c := &modelConn{frameConn: newFrameConn(&recorded{}, a), next: 1}
		c.peer = process{PID: pid}
		c.ctx = peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &connection{frames: c.frameConn}})
		return c
	}
	call := func(c *modelConn, frames int) *arrival {
		require.NoError(t, c.read(headersOf(c.next)))
		c.next += 2
		ctx, err := a.tap(c.ctx, &tap.Info{})
		require.NoError(t, err)
		for range frames {
			require.NoError(t, c.read(dataOf(c.current.id, 16<<10, false)))
		}
		return ctx.(*arrival)
	}
	modest, greedy := begin(1), begin(2)
	first := call(modest, 25)
	other := call(begin(2), 5)
	older, newer := call(greedy, 10), call(greedy, 10)
	last := call(greedy, 20)
	for _, k := range []*arrival{first, other, newer, last} {
		require.NoError(t, k.Err())
	}
	require.ErrorIs(t, older.Err(), ErrTooManyRequests)
	require.EqualError(t, older.Err(), "too many requests at once: what is still arriving takes too much; --max-request-bytes allows no more than 1048576")
	select {
	case <-older.Done():
	default:
		require.Fail(t, "its context has not ended")
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(toStatus(older.Err())))
}

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

// unfinished begins a message of a length and sends part of it.
func unfinished(t *testing.T, c *rawClient, method string, length, part int) {
	t.Helper()
	c.sendPart(t, c.begin(t, method), length, part)
}

func (c *rawClient) sendPart(t *testing.T, stream uint32, length, part int) {
	t.Helper()
	message := make([]byte, 5+part)
	binary.BigEndian.PutUint32(message[1:], uint32(length))
	for each := range slices.Chunk(message, 16<<10) {
		require.NoError(t, c.WriteData(stream, false, each))
	}
}

// rawClient says what it likes, and reads nothing unless it is told to.
type rawClient struct {
	*http2.Framer
	net.Conn
	next uint32
}

func (h *house) rawClient(t *testing.T) *rawClient {
	t.Helper()
	conn, err := net.Dial("unix", h.server.SocketPath())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write([]byte(http2.ClientPreface))
	require.NoError(t, err)
	c := &rawClient{Framer: http2.NewFramer(conn, conn), Conn: conn, next: 1}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, c.WriteSettings())
	return c
}

func (c *rawClient) begin(t *testing.T, method string) uint32 {
	t.Helper()
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	encoder.SetMaxDynamicTableSize(0)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: instanceHeader, Value: "raw"},
	} {
		require.NoError(t, encoder.WriteField(f))
	}
	stream := c.next
	c.next += 2
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true}))
	return stream
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
	send := func(stream uint32, end bool, m googleproto.Message) {
		raw, err := googleproto.Marshal(m)
		require.NoError(t, err)
		require.NoError(t, c.WriteData(stream, end, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)))
	}
	first := c.begin(t, proto.PubSub_Init_FullMethodName)
	send(first, true, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "a"}}})
	require.Empty(t, c.answer(t, first))
	stream := c.begin(t, proto.PubSub_PullMessages_FullMethodName)
	send(stream, false, &proto.PullMessagesRequest{Topic: &proto.Topic{Name: "t"}})
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

// answer waits for the end of a stream, and returns its message.
func (c *rawClient) answer(t *testing.T, stream uint32) (message string) {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		headers, ok := f.(*http2.MetaHeadersFrame)
		if !ok || headers.StreamID != stream || !headers.StreamEnded() {
			continue
		}
		for _, field := range headers.Fields {
			if field.Name == "grpc-message" {
				message = field.Value
			}
		}
		return message
	}
}

// A client that reads none of its answers can have as much left behind as is allowed, and no more.
func TestAConnectionThatIsNotReadIsClosed(t *testing.T) {
	a := testArrivals(1<<20, 10)
	read, unread := &modelConn{frameConn: newFrameConn(&recorded{}, a)}, &modelConn{frameConn: newFrameConn(&recorded{}, a)}
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
	c := newFrameConn(&recorded{}, a)
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
