package component

import (
	"context"
	"sync/atomic"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"golang.org/x/sync/semaphore"
)

// smallCall is what a call may take, in bytes, for those who ask for little not to wait for those who ask for much.
const smallCall = 64 << 10

// turns bounds the calls that are being worked on, in bytes of their requests and of what their answers may at most take:
// small ones and reads of one key, and apart from them all others. Beyond it, calls wait, and count as arriving meanwhile.
type turns struct {
	limit       int64
	small, rest *workers
}

func newTurns(limit int64) *turns {
	return &turns{limit, &workers{Weighted: semaphore.NewWeighted(limit)}, &workers{Weighted: semaphore.NewWeighted(limit)}}
}

// workers are calls that are being worked on.
type workers struct {
	*semaphore.Weighted
	// used is what they may at most take, in bytes.
	used atomic.Int64
}

// used is what is taken where most is, in bytes.
func (t *turns) used() int64 { return max(t.small.used.Load(), t.rest.used.Load()) }

// turn is that of one call.
type turn struct {
	of     *workers
	weight int64
}

// wait waits until it is the turn of a call with a request of so many bytes. The caller must end the turn.
func (t *turns) wait(ctx context.Context, method string, size int64) (turn, error) {
	own := turn{t.small, size}
	switch {
	case method == proto.StateStore_Get_FullMethodName:
		own.weight += receiveLimit
	case method == proto.StateStore_BulkGet_FullMethodName, method == proto.QueriableStateStore_Query_FullMethodName:
		own = turn{t.rest, size + receiveLimit}
	case size > smallCall:
		own.of = t.rest
	}
	own.weight = min(own.weight, t.limit)
	if err := own.of.Acquire(ctx, own.weight); err != nil {
		return turn{}, err
	}
	own.of.used.Add(own.weight)
	return own, nil
}

func (t turn) end() {
	t.of.used.Add(-t.weight)
	t.of.Release(t.weight)
}
