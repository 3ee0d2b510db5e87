package etcdengine

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// AddIdempotencyKeys implements statestore.Engine.
func (e *Engine) AddIdempotencyKeys(ctx context.Context, keys []statestore.IdempotencyKey) error {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = e.space.key(layout.KindIdempotency, string(keys[i].SHA256))
	}
	t := newTxn()
	err := e.read(ctx, names, 0, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
		if kv == nil {
			expires := statestore.InstantOf(keys[i].Expires)
			t.put(names[i], encodeIdempotency(names[i], expires))
			t.put(e.space.timeKey(layout.KindIdempotencyTime, expires, string(keys[i].SHA256)), "")
		}
		return true
	})
	if err != nil || len(t.ops) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.access.RequestTimeout)
	defer cancel()
	_, err = e.try(ctx, t)
	return err
}

// InUse reports whether a process sweeps the bucket, as one does while any has it open, and for SweepLeaseTTL after a crash.
func (e *Engine) InUse(ctx context.Context) (bool, error) {
	found, err := e.client.Get(ctx, e.space.key(kindSweeper, ""), clientv3.WithCountOnly())
	return err == nil && found.Count > 0, wrap(err)
}
