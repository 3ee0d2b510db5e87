package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// ErrTooManyCalls refuses a call for which Options.MaxCalls leave no room.
var ErrTooManyCalls = errors.New("too many calls at once")

const (
	// callCost is what a call takes before anything of its request is there, in bytes: its goroutine, and what gRPC and we
	// know of it.
	callCost = 8 << 10
	// frameCost is what gRPC takes for a frame beside its payload.
	frameCost = 128
	// usualHeaders is a length of encoded headers that callCost has room for, whatever they are; fieldCost is what one
	// field of longer ones takes beside its text.
	usualHeaders, fieldCost = 128, 128
	// aloneBytes is what one request may take of the memory for those that arrive when there are no others, whatever
	// MaxRequestBytes says. The largest takes as much if its frames are of the most wasteful size.
	aloneBytes = 4 * maxReceive
)

// arrivals bounds what calls take whose requests are arriving: in bytes, and how many calls are open. gRPC bounds the
// calls of one connection, and tells nobody of a request before all of it is there; so this goes by the frames of each
// connection, and by gRPC's tap, which names the call that a frame of headers begins.
//
// Where there is no room, calls are evicted whose requests are still arriving: of the process that has most underway, on
// its connection that has most, the one that began first. So requests that are sent in one go get through, even while
// somebody else sends ever more that he never finishes. What was evicted is counted until the client has been told;
// should that come to as much again as is allowed, the connection that has most of it is closed, as its client does not
// read.
type arrivals struct {
	limit    int64
	maxCalls int
	log      *slog.Logger
	clock    clockwork.Clock
	// tooLarge and tooMany say why a call was evicted.
	tooLarge, tooMany error
	// following counts those who wait for the end of a stream. They go with the streams.
	following sync.WaitGroup

	mu sync.Mutex
	// open is what the calls take that are open, and how many there are.
	open tally
	// left is the same of those that are not, or not any more, but whose end is not written.
	left tally
	// answers are the bytes of those that are not written yet; see answered.
	answers int64
	// conns are those on which calls were begun; their clients are senders.
	conns   map[*frameConn]struct{}
	senders map[senderKey]*sender
	// evictions and closings are what is to be logged.
	evictions, closings news
}

type tally struct {
	calls int
	bytes int64
}

func (t *tally) add(calls int, bytes int64) {
	t.calls += calls
	t.bytes += bytes
}

func newArrivals(limit int64, maxCalls int, log *slog.Logger, clock clockwork.Clock) *arrivals {
	return &arrivals{
		limit:    limit,
		maxCalls: maxCalls,
		log:      log,
		clock:    clock,
		tooLarge: fmt.Errorf("%w: what is still arriving takes too much; --max-request-bytes allows no more than %d", ErrTooManyRequests, limit),
		tooMany:  fmt.Errorf("%w: --max-calls allows no more than %d to be open", ErrTooManyCalls, maxCalls),
		conns:    make(map[*frameConn]struct{}),
		senders:  make(map[senderKey]*sender),
	}
}

// began is called when a client's headers begin. Nothing is known of the call but its number.
func (a *arrivals) began(c *frameConn, f frame) *arrival {
	k := &arrival{conn: c, id: f.stream, ended: f.ends()}
	a.mu.Lock()
	defer a.settle()
	if c.closed {
		k.state = callEnded
		return k
	}
	if c.calls == nil {
		a.join(c)
	}
	c.calls[k.id] = k
	a.leave(k, 1, 0)
	return k
}

func (a *arrivals) join(c *frameConn) {
	key := c.senderKey()
	if a.senders[key] == nil {
		a.senders[key] = &sender{}
	}
	c.sender = a.senders[key]
	c.sender.connections++
	c.calls = make(map[uint32]*arrival)
	a.conns[c] = struct{}{}
}

// tap is gRPC's tap.ServerInHandle: it is called on the connection's reading goroutine when a call's headers are there.
func (a *arrivals) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := connectionOf(ctx).frames
	k := c.current
	fixed, done := int64(callCost), make(chan struct{})
	if c.headerBytes > usualHeaders {
		fixed += headersCost(info.Header)
	}
	a.mu.Lock()
	defer a.settle()
	if k.state != callBegun {
		return ctx, status.Error(codes.Unavailable, "the connection is closed")
	}
	k.Context, k.method, k.done = ctx, info.FullMethodName, done
	if a.open.calls >= a.maxCalls && !a.evictOldest(a.tooMany) {
		// gRPC keeps the timer of a call that is refused here.
		if _, timed := ctx.Deadline(); !timed {
			return ctx, toStatus(a.tooMany)
		}
		c.refused = k
	}
	a.leave(k, -1, 0)
	k.state, k.fixed = callOpen, fixed
	a.open.calls++
	a.charge(k, fixed)
	if !k.ended {
		k.conn.list(k)
	}
	return k, nil
}

func headersCost(md metadata.MD) (cost int64) {
	for name, values := range md {
		cost += int64(len(name))
		for _, v := range values {
			cost += fieldCost + int64(len(v))
		}
	}
	return cost
}

// data is called when a frame of a request begins. There is nothing to count for a call that gRPC does not have.
func (a *arrivals) data(c *frameConn, f frame) {
	a.mu.Lock()
	defer a.settle()
	k := c.current
	if k == nil || k.id != f.stream {
		k = c.calls[f.stream]
	}
	if k == nil || k.ended {
		return
	}
	cost := held(f.length)
	k.ended = f.ends()
	switch k.state {
	case callOpen:
		k.held += cost
		k.unread += f.length
		a.charge(k, cost)
		if !k.ended || k.stream {
			k.conn.list(k)
		} else {
			k.conn.unlist(k)
		}
	case callEvicted:
		k.held += cost
		a.leave(k, 0, cost)
	}
}

// held is what gRPC holds of a frame: in a buffer of its own length, or of one of the sizes that are used again
// (mem.DefaultBufferPool).
func held(length int64) int64 {
	switch {
	case length == 0:
		return 0
	case length <= 1<<10:
		return length + frameCost
	case length <= 4<<10:
		return 4<<10 + frameCost
	default:
		return max(length, 16<<10) + frameCost
	}
}

// takeOver is called when a request is there and decoded: it is not arriving any more.
func (a *arrivals) takeOver(k *arrival) error {
	a.mu.Lock()
	defer a.settle()
	if k.evicted != nil {
		return k.evicted
	}
	k.taken.Store(true)
	if k.state == callOpen {
		a.charge(k, -k.cost())
		k.fixed, k.held, k.unread = 0, 0, 0
		k.conn.unlist(k)
	}
	return nil
}

// beginStream is called when a stream's handler begins.
func (a *arrivals) beginStream(k *arrival, idle bool) error {
	a.mu.Lock()
	defer a.settle()
	if k.evicted != nil {
		return k.evicted
	}
	k.taken.Store(true)
	k.stream, k.idle = true, idle
	if k.state == callOpen && idle {
		a.charge(k, -k.fixed)
		k.fixed = 0
		a.rest(k)
	}
	return nil
}

// received takes a message off what a stream has underway: its part of what the frames cost.
func (a *arrivals) received(k *arrival, size int64) {
	a.mu.Lock()
	defer a.settle()
	if k.state != callOpen {
		return
	}
	part := k.held
	if size < k.unread {
		part = int64(float64(k.held) * (float64(size) / float64(k.unread)))
	}
	k.unread = max(0, k.unread-size)
	k.held -= part
	a.charge(k, -part)
	a.rest(k)
}

// rest lets a subscription be that has nothing underway.
func (a *arrivals) rest(k *arrival) {
	if k.idle && k.unread == 0 {
		k.conn.unlist(k)
	}
}

// ended is called when either side has ended a stream.
func (a *arrivals) ended(c *frameConn, stream uint32) {
	a.mu.Lock()
	defer a.settle()
	if k := c.calls[stream]; k != nil {
		delete(c.calls, stream)
		a.end(k)
	}
}

// closed ends what a connection has open. Later calls do nothing.
func (a *arrivals) closed(c *frameConn) {
	a.mu.Lock()
	defer a.settle()
	if c.closed = true; c.calls == nil {
		return
	}
	for _, k := range c.calls {
		a.end(k)
	}
	c.calls = nil
	delete(a.conns, c)
	if c.sender.connections--; c.sender.connections == 0 {
		delete(a.senders, c.senderKey())
	}
}

func (a *arrivals) end(k *arrival) {
	a.unanswered(k)
	if k.state == callOpen {
		k.conn.unlist(k)
		a.open.calls--
		a.charge(k, -k.cost())
	} else {
		a.leave(k, -1, -k.cost())
	}
	k.state = callEnded
	k.endContext()
}

// over ends a call's context; its end is still to be written.
func (a *arrivals) over(k *arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k.endContext()
}

func (k *arrival) endContext() {
	if k.done != nil && !k.isOver {
		k.isOver = true
		close(k.done)
	}
}

func (a *arrivals) charge(k *arrival, bytes int64) {
	a.open.bytes += bytes
	k.conn.bytes += bytes
	k.conn.sender.bytes += bytes
}

func (a *arrivals) leave(k *arrival, calls int, bytes int64) {
	a.left.add(calls, bytes)
	k.conn.left.add(calls, bytes)
}
