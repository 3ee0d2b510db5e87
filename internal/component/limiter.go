package component

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

// Errors of calls for which the limiter has no room.
var (
	ErrTooManyCalls    = errors.New("too many calls at once")
	ErrTooManyRequests = errors.New("too many requests at once")
	ErrTooManyAnswers  = errors.New("too many answers at once")
)

const (
	// arriveWithin is how long a request has to arrive and to get its turn, or one message of a stream once it has begun to
	// arrive.
	arriveWithin = 30 * time.Second
	// sweepEvery is how often the limiter looks for those that have not, and for calls that never came to be served.
	sweepEvery = time.Second
	// smallCall is what a call may take, in bytes, for those who ask for little not to wait for those who ask for much.
	smallCall = 64 << 10
	// smallAnswer is the size of an answer, in bytes, that is not counted while it is not read.
	smallAnswer = 4 << 10
	// deafFor is how long a client may read nothing before its connection is closed for want of room.
	deafFor = 10 * time.Second
	// logEvery is how often the log tells of one kind of event: there may be thousands in a second.
	logEvery = time.Second
)

var errTooSlow = fmt.Errorf("%w: it did not arrive, or it was not its turn, within %s", ErrTooManyRequests, arriveWithin)

// limiter bounds what clients make this process hold, whatever mistakes they make. What it bounds, and what is counted
// apart from each other against Options.MaxRequestBytes:
//
//   - calls that are open, by Options.MaxCalls;
//   - requests that are arriving. Beyond it, those are ended that began to arrive first;
//   - calls that are being worked on, with what their answers may at most take: small ones and reads of one key, and
//     apart from them all others. Beyond it, they wait for their turn, and count as arriving meanwhile;
//   - answers that are not read yet. Beyond it, connections are closed that nothing was read from for deafFor, and if
//     there are none, the call is refused.
//
// README.md has the sum of it.
type limiter struct {
	limit       int64
	maxCalls    int
	log         *slog.Logger
	clock       clockwork.Clock
	small, rest *workers
	// tooMany and tooLarge are the reasons for which calls are evicted.
	tooMany, tooLarge error
	// following counts those who wait for the end of a stream. They go with the streams.
	following sync.WaitGroup

	mu sync.Mutex
	// open counts the calls, bytes what has arrived of requests that are not being worked on.
	open  int
	bytes int64
	// arriving are the calls of which something is to arrive, the oldest first.
	arriving *list.List
	// unread are the bytes of answers that are not read, by connection and in all.
	unread       map[*connection]int64
	unreadInAll  int64
	evicted, cut throttled.Log
	// lines are to be logged once mu is free.
	lines []func()
}

func newLimiter(limit int64, maxCalls int, log *slog.Logger, clock clockwork.Clock) *limiter {
	return &limiter{
		limit: limit, maxCalls: maxCalls, log: log, clock: clock,
		small: newWorkers(limit), rest: newWorkers(limit),
		tooMany:  fmt.Errorf("%w: --max-calls allows no more than %d to be open", ErrTooManyCalls, maxCalls),
		tooLarge: fmt.Errorf("%w: what is still arriving takes too much; --max-request-bytes allows no more than %d", ErrTooManyRequests, limit),
		arriving: list.New(),
		unread:   make(map[*connection]int64),
	}
}

// unlock unlocks mu and logs what happened meanwhile.
func (l *limiter) unlock() {
	lines := l.lines
	l.lines = nil
	l.mu.Unlock()
	for _, line := range lines {
		line()
	}
}

func (l *limiter) warn(text string, attributes ...any) {
	l.lines = append(l.lines, func() { l.log.Warn(text, attributes...) })
}

// tap is gRPC's tap.ServerInHandle: it begins a call, on the goroutine that reads the connection. Where there is no room,
// the call takes the place of the one that has been arriving longest, or is refused.
func (l *limiter) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := &call{Context: ctx, conn: connectionOf(ctx), method: info.FullMethodName}
	c.ended = make(chan struct{})
	if names := info.Header[instanceHeader]; len(names) > 0 {
		c.component = names[0]
	}
	l.mu.Lock()
	defer l.unlock()
	if l.open >= l.maxCalls {
		l.sweep()
	}
	if l.open >= l.maxCalls && !l.evictOldest(l.tooMany) {
		return ctx, toStatus(l.tooMany)
	}
	l.open++
	l.list(c)
	c.conn.begin(c)
	return c, nil
}

// arrived counts bytes of a request.
func (l *limiter) arrived(c *call, bytes int64) {
	l.mu.Lock()
	defer l.unlock()
	if c.over {
		return
	}
	if c.place == nil {
		l.list(c)
	}
	c.bytes += bytes
	l.bytes += bytes
	for l.bytes > l.limit && l.arriving.Len() > 1 {
		l.evictOldest(l.tooLarge)
	}
}

func (l *limiter) list(c *call) {
	c.since, c.place = l.clock.Now(), l.arriving.PushBack(c)
}

// begin is called when a request of so many bytes is there, and it is its turn, or when a stream is to be served. It
// returns false if the call is over.
func (l *limiter) begin(c *call, received int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.over {
		return false
	}
	c.received.Store(true)
	l.take(c, received)
	return true
}

func (l *limiter) take(c *call, bytes int64) {
	bytes = min(bytes, c.bytes)
	c.bytes -= bytes
	l.bytes -= bytes
	if c.bytes == 0 && c.place != nil {
		l.arriving.Remove(c.place)
		c.place = nil
	}
}

func (l *limiter) end(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(c)
}

func (l *limiter) endLocked(c *call) {
	if !c.over {
		c.over = true
		l.open--
		l.take(c, c.bytes)
		if !c.received.Load() {
			c.interrupt()
		}
	}
}

func (l *limiter) evictOldest(reason error) bool {
	oldest := l.arriving.Front()
	if oldest == nil {
		return false
	}
	c := oldest.Value.(*call)
	if before, ok := l.evicted.Allow(l.clock.Now(), logEvery); ok {
		l.warn("ended a call whose request was still arriving", "method", c.method, "bytes", c.bytes, "reason", reason, "from", c.conn.peer, "before", before)
	}
	c.evicted.Store(&reason)
	l.endLocked(c)
	c.interrupt()
	return true
}

// sweep ends what gRPC has ended without serving it, and evicts what does not arrive.
func (l *limiter) sweep() {
	late := l.clock.Now().Add(-arriveWithin)
	l.endArriving(func(c *call) bool { return c.Context.Err() != nil })
	for oldest := l.arriving.Front(); oldest != nil && oldest.Value.(*call).since.Before(late); oldest = l.arriving.Front() {
		l.evictOldest(errTooSlow)
	}
}

func (l *limiter) endArriving(which func(*call) bool) {
	for each := l.arriving.Front(); each != nil; {
		c := each.Value.(*call)
		each = each.Next()
		if which(c) {
			l.endLocked(c)
		}
	}
}

// closed ends what is arriving on a connection, and takes off what it has left unread.
func (l *limiter) closed(conn *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endArriving(func(c *call) bool { return c.conn == conn })
	l.unreadInAll -= l.unread[conn]
	delete(l.unread, conn)
}

// run sweeps until ctx ends.
func (l *limiter) run(ctx context.Context) {
	ticker := l.clock.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.Chan():
			l.mu.Lock()
			l.sweep()
			l.unlock()
		case <-ctx.Done():
			return
		}
	}
}

// enter waits until it is the turn of a call whose request is there. The caller must leave the lane when it was worked on.
func (l *limiter) enter(ctx context.Context, c *call) (at lane, err error) {
	at, size := l.lane(c)
	if err := at.Acquire(ctx, at.weight); err != nil {
		return lane{}, err
	}
	at.used.Add(at.weight)
	if !l.begin(c, size) {
		at.leave()
		return lane{}, c.Err()
	}
	return at, nil
}

// workers are the calls of one lane that are being worked on.
type workers struct {
	*semaphore.Weighted
	// used is what they may at most take, in bytes.
	used atomic.Int64
}

func newWorkers(limit int64) *workers { return &workers{Weighted: semaphore.NewWeighted(limit)} }

// lane is where a call waits for its turn, and what it may at most take.
type lane struct {
	*workers
	weight int64
}

func (l lane) leave() {
	l.used.Add(-l.weight)
	l.Release(l.weight)
}

// used returns how many calls are open, and the bytes that count against the limit where most of it is used.
func (l *limiter) used() (calls int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, max(l.bytes, l.unreadInAll, l.small.used.Load(), l.rest.used.Load())
}

// lane returns the lane of a call, and what of its weight is the request.
func (l *limiter) lane(c *call) (at lane, size int64) {
	l.mu.Lock()
	size = c.bytes
	l.mu.Unlock()
	at = lane{l.small, size}
	switch c.method {
	case proto.StateStore_Get_FullMethodName:
		at.weight += receiveLimit
	case proto.StateStore_BulkGet_FullMethodName, proto.QueriableStateStore_Query_FullMethodName:
		at = lane{l.rest, size + receiveLimit}
	default:
		if size > smallCall {
			at.workers = l.rest
		}
	}
	at.weight = min(at.weight, l.limit)
	return at, size
}

// metered returns a stream whose messages are counted until they are received.
func (l *limiter) metered(c *call, stream grpc.ServerStream) (*meteredStream, error) {
	if !l.begin(c, 0) {
		return nil, c.Err()
	}
	// gRPC asked for Done before the stream was served, and its reads wait for what it got.
	l.following.Add(1)
	context.AfterFunc(c.Context, func() {
		defer l.following.Done()
		l.mu.Lock()
		defer l.mu.Unlock()
		c.interrupt()
	})
	return &meteredStream{stream, l, c}, nil
}

type meteredStream struct {
	grpc.ServerStream
	limiter *limiter
	call    *call
}

// RecvMsg implements grpc.ServerStream.
func (s *meteredStream) RecvMsg(into any) error {
	if err := s.ServerStream.RecvMsg(into); err != nil {
		return err
	}
	const prefix = 5 // of each message of gRPC
	if m, ok := into.(googleproto.Message); ok {
		s.limiter.mu.Lock()
		defer s.limiter.mu.Unlock()
		s.limiter.take(s.call, prefix+int64(googleproto.Size(m)))
	}
	return nil
}
