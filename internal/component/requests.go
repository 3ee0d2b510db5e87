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

// smallRequest is what a request may have, in bytes, for those who ask for little not to suffer from those who ask for
// much: more room is kept for those.
const smallRequest = 64 << 10

// requests bounds, in bytes, the unary requests that are being worked on, such as those that wait for the disk. One that
// does not fit is refused at once: to let it wait would take the same memory. Large ones get what the limit says, and
// small ones as much again; one alone always fits.
//
// What the process holds of requests is, in the worst case, the sum of
//
//   - MaxRequestBytes for those that are arriving, or aloneBytes for one alone, and twice that again for the instant in
//     which they are decoded, as gRPC puts the pieces together and takes the message from that;
//   - MaxRequestBytes for what was evicted, until its end is written;
//   - twice MaxRequestBytes for those that are being worked on;
//   - MaxRequestBytes for answers that a client does not read, and smallAnswer for each of its open calls;
//   - callCost and the headers, which maxHeaders lets take some 60 KiB when they are many small fields, of each open call,
//     of which there are MaxCalls, and as many again whose end is not written.
//
// It does not include what gRPC queues to be written beside answers.
type requests struct {
	limit    int64
	arrivals *arrivals
	// all are the bytes of all of them, large of those above smallRequest.
	all, large atomic.Int64
}

func (r *requests) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	k := arrivalOf(ctx)
	if k == nil {
		return r.work(ctx, req, handler)
	}
	if err := r.arrivals.takeOver(k); err != nil {
		return nil, err
	}
	answer, err := r.work(ctx, req, handler)
	if m, ok := answer.(googleproto.Message); ok && err == nil {
		err = r.arrivals.answered(k, int64(googleproto.Size(m)))
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (r *requests) work(ctx context.Context, req any, handler grpc.UnaryHandler) (any, error) {
	m, ok := req.(googleproto.Message)
	if !ok {
		return handler(ctx, req)
	}
	size := int64(googleproto.Size(m))
	all := r.all.Add(size)
	defer r.all.Add(-size)
	if size <= smallRequest {
		if all > 2*r.limit && all > size {
			return nil, fmt.Errorf("%w: %d bytes are being worked on, this one has %d; --max-request-bytes allows no more than twice %d",
				ErrTooManyRequests, all-size, size, r.limit)
		}
		return handler(ctx, req)
	}
	defer r.large.Add(-size)
	if now := r.large.Add(size); now > r.limit && now > size {
		return nil, fmt.Errorf("%w: large ones of %d bytes are being worked on, this one has %d; --max-request-bytes allows no more than %d",
			ErrTooManyRequests, now-size, size, r.limit)
	}
	return handler(ctx, req)
}
