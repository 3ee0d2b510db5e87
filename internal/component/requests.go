package component

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	googleproto "google.golang.org/protobuf/proto"
)

// ErrTooManyRequests refuses a request for which Options.MaxRequestBytes leave no room.
var ErrTooManyRequests = errors.New("too many requests at once")

// requests bounds, in bytes, the unary requests that are being worked on, such as those that wait for the disk. One that
// does not fit is refused at once: to let it wait would take the same memory. One alone always fits, and so does each
// that is no larger than streamWindow: a client may have as much lie unread on any of its calls, and those who ask for
// little are not to suffer from those who ask for much.
//
// What the process may hold of requests is, in the worst case, the sum of
//
//   - MaxRequestBytes for those that have arrived and are larger than streamWindow;
//   - streamWindow for each call that is open, of which a connection has maxCalls at most, and there are MaxConnections;
//   - maxReceive for each call whose large request is still arriving. gRPC tells nobody of a request before all of it is
//     there, and bounds what arrives by the number of calls alone: a client can fill memory with requests that it never
//     finishes, until it leaves or is ended.
type requests struct {
	limit int64
	bytes atomic.Int64
}

func (r *requests) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m, ok := req.(googleproto.Message)
	if !ok {
		return handler(ctx, req)
	}
	size := int64(googleproto.Size(m))
	if size <= streamWindow {
		return handler(ctx, req)
	}
	defer r.bytes.Add(-size)
	if now := r.bytes.Add(size); now > r.limit && now > size {
		return nil, fmt.Errorf("%w: large ones of %d bytes are being worked on, this one has %d; --max-request-bytes allows no more than %d",
			ErrTooManyRequests, now-size, size, r.limit)
	}
	return handler(ctx, req)
}
