package etcdengine

import (
	"context"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// Walk implements statestore.Inspector. Each page that it reads is consistent; what is written meanwhile may be in the next.
func (e *Engine) Walk(ctx context.Context, from string, now time.Time, visit func(item statestore.Item) bool) error {
	return e.scan(ctx, e.space.key(layout.KindValue, from), 0, 1, func(cluster uint64, key string, kv *mvccpb.KeyValue) bool {
		return visit(e.item(cluster, key, kv, maxMessage, now))
	})
}

// IdempotencyKeys implements statestore.Inspector.
func (e *Engine) IdempotencyKeys(ctx context.Context, after []byte, limit int) ([]statestore.IdempotencyKey, error) {
	page, err := e.page(ctx, e.space.after(layout.KindIdempotency, string(after)), e.space.end(layout.KindIdempotency), limit, 0)
	if err != nil {
		return nil, err
	}
	keys := make([]statestore.IdempotencyKey, len(page.Kvs))
	for i, kv := range page.Kvs {
		// One that cannot be read is removed when it is over, and has no time until then.
		expires, _ := e.space.decodeIdempotency(string(kv.Key), kv.Value)
		keys[i] = statestore.IdempotencyKey{SHA256: []byte(e.space.of(string(kv.Key))), Expires: statestore.InstantTime(expires)}
	}
	return keys, nil
}

// IndexStates implements statestore.Inspector.
func (e *Engine) IndexStates(ctx context.Context) (states []statestore.IndexState, err error) {
	r, _, err := e.refresh(ctx)
	if err != nil {
		return nil, err
	}
	indexes := r.kept()
	names := make([]string, len(indexes))
	for i := range indexes {
		names[i] = e.space.key(kindProgress, indexID(indexes[i].ID))
	}
	err = e.read(ctx, names, 0, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
		x := &indexes[i]
		var p progress
		if kv != nil {
			// What cannot be read is built from its beginning.
			_ = cbor.Unmarshal(kv.Value, &p)
		}
		states = append(states, statestore.IndexState{
			Path: x.Path, Complete: x.State == layout.IndexComplete, Keys: p.Keys, ManyKeys: x.Many, Expires: statestore.InstantTime(x.Expires),
		})
		return true
	})
	return states, err
}

// clearOrder is the order in which Clear removes records, after the list of indexes is empty. The bucket's random number
// stays, and so does the last index id.
var clearOrder = []byte{layout.KindValue, layout.KindExpiry, layout.KindIdempotency, layout.KindIdempotencyTime, layout.KindIndexEntry, kindProgress}

// Clear implements statestore.Inspector.
func (e *Engine) Clear(ctx context.Context, limit int) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*e.access.RequestTimeout)
	defer cancel()
	r, _, err := e.refresh(ctx)
	if err != nil {
		return false, err
	}
	if len(r.Indexes) > 0 {
		// No writer adds to them from here on.
		r = r.copy()
		r.Indexes = nil
		t := newTxn()
		if err := e.save(t, r); err != nil {
			return false, err
		}
		_, err := e.try(ctx, t)
		return true, err
	}
	for _, kind := range clearOrder {
		page, err := e.page(ctx, e.space.key(kind, ""), e.space.end(kind), limit, 0, clientv3.WithKeysOnly())
		if err != nil {
			return false, err
		}
		if n := len(page.Kvs); n > 0 {
			_, err := e.client.Delete(ctx, string(page.Kvs[0].Key), clientv3.WithRange(string(page.Kvs[n-1].Key)+"\x00"))
			return true, wrap(err)
		}
	}
	return false, nil
}
