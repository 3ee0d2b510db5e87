package component

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that this one is made of
	"google.golang.org/grpc/mem"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

const (
	// smallAnswer is the size of an answer, in bytes, that is not counted while it is not read.
	smallAnswer = 4 << 10
	// unreadFor is how long a client may read nothing before its connection is closed for want of room.
	unreadFor = 10 * time.Second
)

// answers bounds the bytes of answers that are not read yet. Beyond it, connections are closed that nothing was read from
// for unreadFor, and if there are none, the call is refused.
type answers struct {
	limit int64
	log   *slog.Logger
	clock clockwork.Clock

	mu     sync.Mutex
	unread map[*connection]*unread
	inAll  int64
	cut    throttled.Log
}

// unread are a connection's answers that are not read yet.
type unread struct {
	bytes int64
	// lastRead is when an answer was written, or the first of these was there.
	lastRead time.Time
}

func newAnswers(limit int64, log *slog.Logger, clock clockwork.Clock) *answers {
	return &answers{limit: limit, log: log, clock: clock, unread: make(map[*connection]*unread)}
}

// reserve makes room for an answer until it is written or its connection is closed. It returns what gRPC is to write.
func (a *answers) reserve(conn *connection, built any) (any, error) {
	m := built.(googleproto.Message)
	size := int64(googleproto.Size(m))
	if size <= smallAnswer {
		return built, nil
	}
	err := a.take(conn, size)
	if err != nil && a.closeStalled() {
		err = a.take(conn, size)
	}
	if err != nil {
		return nil, err
	}
	return &answer{m, a, conn, size}, nil
}

func (a *answers) take(conn *connection, size int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inAll > 0 && a.inAll+size > a.limit {
		return fmt.Errorf("%w: %d bytes are not read yet, this one has %d; --max-request-bytes allows no more than %d",
			ErrTooManyAnswers, a.inAll, size, a.limit)
	}
	u := a.unread[conn]
	if u == nil {
		u = &unread{lastRead: a.clock.Now()}
		a.unread[conn] = u
	}
	u.bytes += size
	a.inAll += size
	return nil
}

// closeStalled closes the connections that nothing was read from for unreadFor, and reports whether there were any.
func (a *answers) closeStalled() bool {
	var stalled []*connection
	line := func() {}
	a.mu.Lock()
	for conn, u := range a.unread {
		if a.clock.Since(u.lastRead) < unreadFor {
			continue
		}
		stalled = append(stalled, conn)
		if before, ok := a.cut.Allow(a.clock.Now(), logEvery); ok {
			bytes := u.bytes
			line = func() {
				a.log.Warn("closed a connection whose client does not read what it is answered", "bytes", bytes, "from", conn.peer, "before", before)
			}
		}
	}
	a.mu.Unlock()
	for _, conn := range stalled {
		_ = conn.Close()
	}
	line()
	return len(stalled) > 0
}

func (a *answers) written(conn *connection, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.unread[conn]
	if u == nil {
		return // the connection is closed
	}
	u.lastRead = a.clock.Now()
	a.inAll -= size
	if u.bytes -= size; u.bytes == 0 {
		delete(a.unread, conn)
	}
}

// closed takes off what a connection has left unread.
func (a *answers) closed(conn *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u := a.unread[conn]; u != nil {
		a.inAll -= u.bytes
		delete(a.unread, conn)
	}
}

func (a *answers) used() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inAll
}

// answer is one that counts until gRPC has written it, which may be long after its call has ended: gRPC keeps it for a
// client that does not read.
type answer struct {
	googleproto.Message
	answers *answers
	conn    *connection
	size    int64
}

// codec is gRPC's own for protobuf, which tells an answer when it was written.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*answer)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	buffer := mem.DefaultBufferPool().Get(int(a.size))
	encoded, err := googleproto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], a.Message)
	if err != nil {
		a.Put(buffer)
		return nil, err
	}
	*buffer = encoded
	return mem.BufferSlice{mem.NewBuffer(buffer, a)}, nil
}

// Get implements mem.BufferPool. It is not used.
func (a *answer) Get(length int) *[]byte { return mem.DefaultBufferPool().Get(length) }

// Put implements mem.BufferPool: gRPC is through with the answer.
func (a *answer) Put(buffer *[]byte) {
	a.answers.written(a.conn, a.size)
	mem.DefaultBufferPool().Put(buffer)
}
