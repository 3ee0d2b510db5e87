package component

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"pgregory.net/rapid"
)

// modelConn is a connection of the model, with what was begun on it.
type modelConn struct {
	*frameConn
	ctx   context.Context
	next  uint32
	calls []*arrival
}

func newModelConn(ctx context.Context, a *arrivals, pid int) *modelConn {
	c := &modelConn{frameConn: newFrameConn(&recorded{}, a, access.Process{PID: pid}), next: 1}
	c.ctx = peer.NewContext(ctx, &peer.Peer{AuthInfo: &connection{frames: c.frameConn}})
	return c
}

// begin makes a call that is let in.
func (c *modelConn) begin(t *testing.T) *arrival {
	t.Helper()
	require.NoError(t, c.read(headersOf(c.next)))
	c.next += 2
	ctx, err := c.arrivals.tap(c.ctx, &tap.Info{})
	require.NoError(t, err)
	return ctx.(*arrival)
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
			conns[i] = newModelConn(context.Background(), a, i/2) // one is not known, and one has two
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
			"answer": func(t *rapid.T) {
				k, size := anyCall(t), rapid.Int64Range(0, limit).Draw(t, "size")
				err := a.answered(k, size)
				require.LessOrEqual(t, a.answers, max(limit, size))
				if err != nil {
					require.ErrorIs(t, err, ErrTooManyAnswers)
					for _, s := range a.senders {
						require.LessOrEqual(t, s.answers, k.conn.sender.answers)
					}
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
		require.Zero(t, a.answers)
		require.Empty(t, a.conns)
		require.Empty(t, a.senders)
	})
}

func checkSums(t *rapid.T, a *arrivals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var open, left tally
	bySender := make(map[*sender]int64)
	var answers int64
	answersOf := make(map[*sender]int64)
	evictable := 0
	for c := range a.conns {
		var mine, mineLeft tally
		listed := 0
		answers += c.answers
		answersOf[c.sender] += c.answers
		unread := c.answers
		for _, k := range c.calls {
			unread -= k.answer
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
		require.Zero(t, unread)
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
	require.Equal(t, answers, a.answers)
	for _, s := range a.senders {
		require.Equal(t, bySender[s], s.bytes)
		require.Equal(t, answersOf[s], s.answers)
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
	begin := func(pid int) *modelConn { return newModelConn(t.Context(), a, pid) }
	call := func(c *modelConn, frames int) *arrival {
		k := c.begin(t)
		for range frames {
			require.NoError(t, c.read(dataOf(k.id, 16<<10, false)))
		}
		return k
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
