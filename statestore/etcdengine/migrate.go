package etcdengine

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var _ statestore.Migrator = (*Engine)(nil)

// AddIdempotencyKeys implements statestore.Migrator.
func (e *Engine) AddIdempotencyKeys(ctx context.Context, keys []statestore.IdempotencyKey) error {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = e.space.key(kindIdempotency, string(keys[i].SHA256))
	}
	var t txn
	add := func(i int) {
		digest, expires := string(keys[i].SHA256), statestore.InstantOf(keys[i].Expires)
		t.put(names[i], encodeIdempotency(names[i], expires))
		t.put(e.space.timeKey(kindIdempotencyTime, expires, digest), "")
	}
	_, err := e.read(ctx, names, 0, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
		if kv == nil {
			add(i)
		}
		return true
	})
	if err != nil {
		return err
	}
	// A name and its entry in time order stay together.
	for step := e.maxOps / 2 * 2; len(t.ops) > 0; {
		n := min(step, len(t.ops))
		bounded, cancel := context.WithTimeout(ctx, e.config.RequestTimeout)
		_, err := e.try(bounded, &txn{ops: t.ops[:n]})
		cancel()
		if err != nil {
			return err
		}
		t.ops = t.ops[n:]
	}
	return nil
}

// InUse reports whether a process sweeps the bucket, as one does while any has it open, and for SweepLeaseTTL after a crash.
func (e *Engine) InUse(ctx context.Context) (bool, error) {
	found, err := e.client.Get(ctx, e.space.key(kindSweeper, ""), clientv3.WithCountOnly())
	return err == nil && found.Count > 0, wrap(err)
}
