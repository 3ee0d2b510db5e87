package suites

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dapr/components-contrib/state"
	adapters "github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/kit/logger"
)

// socketStore is the runtime's adapter, with what the adapter loses put back so that the suite can see the rest:
//
//   - sub-test "etag" demands that a bulk write of which one item's ETag does not match returns a joined error with one
//     BulkStoreError, which names the key. The wire carries one status, of which the adapter makes one ETagError. The key
//     stands in its text. TestBulkETagErrorOverTheSocket asserts what arrives, and restored counts how often help was
//     needed.
//   - sub-test "ping" demands Ping(ctx); the adapter's takes no context.
//
// All else is the adapter's.
type socketStore struct {
	adapter
	restored map[string]int
}

type adapter interface {
	state.Store
	state.TransactionalStore
	state.TransactionalStoreMultiMaxSize
	state.Querier
	Ping() error
}

func newSocketStore(socket string) *socketStore {
	return &socketStore{
		adapter:  adapters.NewGRPCStateStore(logger.NewLogger("state-adapter"), socket),
		restored: make(map[string]int),
	}
}

// Ping implements health.Pinger.
func (s *socketStore) Ping(context.Context) error { return s.adapter.Ping() }

// BulkSet implements state.BulkStore.
func (s *socketStore) BulkSet(ctx context.Context, reqs []state.SetRequest, opts state.BulkStoreOpts) error {
	return restore(s, "BulkSet", s.adapter.BulkSet(ctx, reqs, opts), reqs)
}

// BulkDelete implements state.BulkStore.
func (s *socketStore) BulkDelete(ctx context.Context, reqs []state.DeleteRequest, opts state.BulkStoreOpts) error {
	return restore(s, "BulkDelete", s.adapter.BulkDelete(ctx, reqs, opts), reqs)
}

// restore makes of the one ETagError that arrived the joined one that was sent.
func restore[R state.StateRequest](s *socketStore, call string, err error, reqs []R) error {
	var etag *state.ETagError
	if !errors.As(err, &etag) {
		return err
	}
	for _, req := range reqs {
		if strings.Contains(etag.Error(), fmt.Sprintf("key %q:", req.GetKey())) {
			s.restored[call]++
			return errors.Join(state.NewBulkStoreError(req.GetKey(), etag))
		}
	}
	return err
}
