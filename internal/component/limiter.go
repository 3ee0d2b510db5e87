package component

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

// Errors of calls for which there is no room.
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
	// logEvery is how often the log tells of one kind of event: there may be thousands in a second.
	logEvery = time.Second
)

var errTooSlow = fmt.Errorf("%w: it did not arrive, or it was not its turn, within %s", ErrTooManyRequests, arriveWithin)

// limiter bounds the calls that are open, and the bytes of requests that are arriving. Beyond either, those are ended that
// began to arrive first. With turns and answers, it bounds what clients make this process hold, whatever mistakes they make;
// docs/configuration.md has the sum of it.
type limiter struct {
	maxBytes int64
	maxCalls int
	log      *slog.Logger
	clock    clockwork.Clock
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
	evicted  throttled.Log
	// line, if any, is to be logged once mu is free.
	line func()
}

func newLimiter(maxBytes int64, maxCalls int, log *slog.Logger, clock clockwork.Clock) *limiter {
	return &limiter{
		maxBytes: maxBytes, maxCalls: maxCalls, log: log, clock: clock,
		tooMany:  fmt.Errorf("%w: --max-calls allows no more than %d to be open", ErrTooManyCalls, maxCalls),
		tooLarge: fmt.Errorf("%w: what is still arriving takes too much; --max-request-bytes allows no more than %d", ErrTooManyRequests, maxBytes),
		arriving: list.New(),
	}
}

// unlock unlocks mu and logs what happened meanwhile.
func (l *limiter) unlock() {
	line := l.line
	l.line = nil
	l.mu.Unlock()
	if line != nil {
		line()
	}
}

// tap is gRPC's tap.ServerInHandle: it begins a call, on the goroutine that reads the connection. Where there is no room,
// the call takes the place of the one that has been arriving longest, or is refused.
func (l *limiter) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := &call{Context: ctx, conn: connectionOf(ctx), method: info.FullMethodName, ended: make(chan struct{})}
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

// arrived counts bytes of a request. None may come too: some clients say in a frame of its own that they have sent all.
func (l *limiter) arrived(c *call, bytes int64) {
	l.mu.Lock()
	defer l.unlock()
	if c.over || bytes == 0 {
		return
	}
	if c.place == nil {
		l.list(c)
	}
	c.bytes += bytes
	l.bytes += bytes
	for l.bytes > l.maxBytes && l.arriving.Len() > 1 {
		l.evictOldest(l.tooLarge)
	}
}

func (l *limiter) list(c *call) {
	c.since, c.place = l.clock.Now(), l.arriving.PushBack(c)
}

// size is what has arrived of a request, in bytes.
func (l *limiter) size(c *call) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.bytes
}

// begin is called when a request of so many bytes is there, and it is its turn, or when a stream is to be served. Its error
// is why the call is over.
func (l *limiter) begin(c *call, received int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.over {
		return c.Err()
	}
	c.received.Store(true)
	l.take(c, received)
	return nil
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

// end ends a call that was served.
func (l *limiter) end(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(c)
}

func (l *limiter) endLocked(c *call) {
	if c.over {
		return
	}
	c.over = true
	l.open--
	l.take(c, c.bytes)
	if !c.received.Load() {
		c.interrupt()
	}
}

func (l *limiter) evictOldest(reason error) bool {
	oldest := l.arriving.Front()
	if oldest == nil {
		return false
	}
	c := oldest.Value.(*call)
	if before, ok := l.evicted.Allow(l.clock.Now(), logEvery); ok {
		bytes := c.bytes
		l.line = func() {
			l.log.Warn("ended a call whose request was still arriving", "method", c.method, "bytes", bytes, "reason", reason, "from", c.conn.peer, "before", before)
		}
	}
	c.evicted.Store(&reason)
	l.endLocked(c)
	c.interrupt()
	return true
}

// sweep ends what gRPC has ended without serving it, and evicts what does not arrive.
func (l *limiter) sweep() {
	l.endArriving(func(c *call) bool { return c.Context.Err() != nil })
	late := l.clock.Now().Add(-arriveWithin)
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

// closed ends what is arriving on a connection.
func (l *limiter) closed(conn *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endArriving(func(c *call) bool { return c.conn == conn })
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

// used returns how many calls are open, and the bytes that are arriving.
func (l *limiter) used() (calls int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.bytes
}

// metered returns a stream whose messages are counted until they are received.
func (l *limiter) metered(c *call, stream grpc.ServerStream) (*meteredStream, error) {
	if err := l.begin(c, 0); err != nil {
		return nil, err
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
	size := prefix + int64(googleproto.Size(into.(googleproto.Message)))
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	s.limiter.take(s.call, size)
	return nil
}
