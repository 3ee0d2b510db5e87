package component

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that this one is made of
	"google.golang.org/grpc/mem"
	googleproto "google.golang.org/protobuf/proto"
)

// answer is one that counts until gRPC has written it, which may be long after its call has ended: gRPC keeps it for a
// client that does not read.
type answer struct {
	googleproto.Message
	release func()
}

// reserve makes room for an answer until it is written or its connection is closed. It returns what gRPC is to write.
func (l *limiter) reserve(conn *connection, built any) (any, error) {
	m, ok := built.(googleproto.Message)
	if !ok {
		return built, nil
	}
	size := int64(googleproto.Size(m))
	if size <= smallAnswer {
		return built, nil
	}
	var deaf []*connection
	defer func() {
		for _, c := range deaf {
			_ = c.Close()
		}
	}()
	l.mu.Lock()
	defer l.unlock()
	if l.unreadInAll > 0 && l.unreadInAll+size > l.limit {
		for c, bytes := range l.unread {
			if l.clock.Since(c.heard) >= deafFor {
				deaf = append(deaf, c)
				l.unreadInAll -= bytes
				delete(l.unread, c)
				if before, ok := l.cut.Allow(l.clock.Now(), logEvery); ok {
					l.warn("closed a connection whose client does not read what it is answered", "bytes", bytes, "from", c.peer, "before", before)
				}
			}
		}
	}
	if l.unreadInAll > 0 && l.unreadInAll+size > l.limit {
		return nil, fmt.Errorf("%w: %d bytes are not read yet, this one has %d; --max-request-bytes allows no more than %d",
			ErrTooManyAnswers, l.unreadInAll, size, l.limit)
	}
	if l.unread[conn] == 0 {
		conn.heard = l.clock.Now()
	}
	l.unread[conn] += size
	l.unreadInAll += size
	return &answer{m, sync.OnceFunc(func() { l.written(conn, size) })}, nil
}

func (l *limiter) written(conn *connection, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unread[conn] == 0 {
		return // it is closed
	}
	conn.heard = l.clock.Now()
	l.unreadInAll -= size
	if l.unread[conn] -= size; l.unread[conn] == 0 {
		delete(l.unread, conn)
	}
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
	buffer := mem.DefaultBufferPool().Get(googleproto.Size(a.Message))
	encoded, err := googleproto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], a.Message)
	if err != nil {
		mem.DefaultBufferPool().Put(buffer)
		a.release()
		return nil, err
	}
	*buffer = encoded
	return mem.BufferSlice{mem.NewBuffer(buffer, a)}, nil
}

// Get implements mem.BufferPool. It is not used.
func (a *answer) Get(length int) *[]byte { return mem.DefaultBufferPool().Get(length) }

// Put implements mem.BufferPool: gRPC is through with the answer.
func (a *answer) Put(buffer *[]byte) {
	a.release()
	mem.DefaultBufferPool().Put(buffer)
}
