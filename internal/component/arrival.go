package component

import (
	"context"
	"sync/atomic"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	googleproto "google.golang.org/protobuf/proto"
)

// arrival is a call that a client has begun, and its context.
//
// While its request arrives, the context ends with the call, whichever side ends it, or when it is evicted. Then it is
// gRPC's own again, whose cancellation reaches the contexts that are made from it without a goroutine for each. To make
// it with context.WithCancel instead takes five allocations and as long as all the rest of what is done here.
type arrival struct {
	context.Context // gRPC's own
	conn            *frameConn
	id              uint32
	method          string
	// done is closed when the call is over.
	done chan struct{}
	// taken says that the request has been taken over, or, of a stream, that its handler has begun.
	taken atomic.Bool

	// What follows is guarded by arrivals.mu; evicted is written before done is closed.

	evicted error
	state   callState
	// ended says that the client sends no more, isOver that done is closed.
	ended, isOver bool
	// stream says that its messages come one by one, idle that it costs nothing while none is underway.
	stream, idle bool
	// fixed is what the call costs, held what the frames do whose messages have not been taken over, of unread bytes.
	fixed, held, unread int64
	// answer is what arrivals.answered has counted.
	answer int64
	// listed says that the call is in its connection's list, between older and newer.
	listed       bool
	older, newer *arrival
}

type callState uint8

const (
	// callBegun is a call that gRPC has not shown to us yet, or that it or we have refused, until that is written.
	callBegun callState = iota
	// callOpen is one that is being served.
	callOpen
	// callEvicted is one that was open, until its end is written.
	callEvicted
	callEnded
)

func (k *arrival) cost() int64 { return k.fixed + k.held }

// Done implements context.Context. What it returns changes once, when the request has been taken over: gRPC has asked by
// then, and nobody else before.
func (k *arrival) Done() <-chan struct{} {
	if k.taken.Load() {
		return k.Context.Done()
	}
	return k.done
}

// Err implements context.Context. For a call that was evicted it says so, as gRPC puts it into the answer.
func (k *arrival) Err() error {
	if err := k.Context.Err(); err != nil {
		return err
	}
	select {
	case <-k.done:
		if k.evicted != nil {
			return k.evicted
		}
		return context.Canceled
	default:
		return nil
	}
}

type arrivalKey struct{}

// Value implements context.Context.
func (k *arrival) Value(key any) any {
	if key == (arrivalKey{}) {
		return k
	}
	return k.Context.Value(key)
}

func arrivalOf(ctx context.Context) *arrival {
	k, _ := ctx.Value(arrivalKey{}).(*arrival)
	return k
}

// streaming lets a stream's messages be counted until they are received. A subscription that waits for events costs
// nothing here; others are open for a moment, and stay among those that may be evicted.
func (a *arrivals) streaming(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	k := arrivalOf(stream.Context())
	if k == nil {
		return handler(srv, stream)
	}
	if err := a.beginStream(k, info.FullMethod == proto.PubSub_PullMessages_FullMethodName); err != nil {
		return err
	}
	// gRPC's reads and writes, which may outlast the handler, wait for the call's own end.
	a.following.Add(1)
	context.AfterFunc(k.Context, func() {
		defer a.following.Done()
		a.over(k)
	})
	return handler(srv, &arrivingStream{stream, a, k})
}

type arrivingStream struct {
	grpc.ServerStream
	arrivals *arrivals
	call     *arrival
}

// RecvMsg implements grpc.ServerStream.
func (s *arrivingStream) RecvMsg(into any) error {
	if err := s.ServerStream.RecvMsg(into); err != nil {
		return err
	}
	const prefix = 5 // of each message of gRPC
	if m, ok := into.(googleproto.Message); ok {
		s.arrivals.received(s.call, prefix+int64(googleproto.Size(m)))
	}
	return nil
}
