package etcdengine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// registry is the indexes of a bucket, as it was written at a revision. It is never changed, only replaced.
type registry struct {
	Indexes []index `cbor:"1,keyasint"`
	NextID  uint32  `cbor:"2,keyasint"`

	revision int64 // 0: it was never written
}

// index is one index.
type index struct {
	ID      uint32            `cbor:"1,keyasint"`
	Path    string            `cbor:"2,keyasint"`
	State   layout.IndexState `cbor:"3,keyasint"`
	Expires int64             `cbor:"4,keyasint"`           // nanoseconds since 1970
	Many    bool              `cbor:"5,keyasint,omitempty"` // it may hold a value with many keys

	field statestore.FieldPath
}

// progress is how far the building of an index has come.
type progress struct {
	Keys   uint64 `cbor:"1,keyasint"` // that it has dealt with
	Cursor string `cbor:"2,keyasint"` // the last of them
}

// kept are the indexes that writes must keep right.
func (r *registry) kept() []index {
	return slices.DeleteFunc(slices.Clone(r.Indexes), func(x index) bool { return x.State == layout.IndexRemoving })
}

func (r *registry) find(path string) int {
	return slices.IndexFunc(r.Indexes, func(x index) bool { return x.State != layout.IndexRemoving && x.Path == path })
}

// copy returns one to change.
func (r *registry) copy() *registry {
	return &registry{Indexes: slices.Clone(r.Indexes), NextID: r.NextID, revision: r.revision}
}

// decodeRegistry reads what was stored of it; kv is nil if that is nothing.
func decodeRegistry(kv *mvccpb.KeyValue) (*registry, error) {
	r := &registry{}
	if kv == nil {
		return r, nil
	}
	body, err := layout.Unseal(recordFormat, string(kv.Key), kv.Value)
	if err == nil {
		err = cbor.Unmarshal(body, r)
	}
	for i := range r.Indexes {
		if err == nil {
			r.Indexes[i].field, err = statestore.ParseFieldPath(r.Indexes[i].Path)
		}
	}
	if err != nil {
		return nil, &statestore.DamagedError{Record: "list of query indexes", Err: err}
	}
	r.revision = kv.ModRevision
	return r, nil
}

// refresh reads the registry anew and returns it with the revision at which it was read: e.registry may be that of another
// one.
func (e *Engine) refresh(ctx context.Context) (r *registry, revision int64, err error) {
	at, kv, err := e.get(ctx, e.space.key(kindRegistry, ""), 0)
	if err != nil {
		return nil, 0, err
	}
	if r, err = decodeRegistry(kv); err != nil {
		return nil, 0, err
	}
	e.registry.Store(r)
	return r, at.Revision, nil
}

// save adds the registry to the transaction, which then depends on nobody else having changed it.
func (e *Engine) save(t *txn, r *registry) error {
	k := e.space.key(kindRegistry, "")
	body, err := cbor.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode list of query indexes: %w", err)
	}
	t.unchanged(k, r.revision)
	t.put(k, seal(k, body))
	return nil
}

// reindex adds how indexes change when a key's value, JSON or not, becomes another one; nil: there is none.
func (t *txn) reindex(space space, indexes []index, key string, before, after []byte) {
	before, after = statestore.OnlyJSON(before), statestore.OnlyJSON(after)
	value := space.key(layout.KindValue, key)
	for i := range indexes {
		x := &indexes[i]
		lost, gained, _ := statestore.IndexChange(&x.field, before, after)
		for _, indexKey := range lost {
			k, _ := space.indexEntry(x.ID, indexKey, key)
			t.delete(k)
			t.lost = append(t.lost, lostEntry{k, value})
		}
		for _, indexKey := range gained {
			t.put(space.indexEntry(x.ID, indexKey, key))
		}
	}
}

// BuildIndexes implements statestore.Engine.
func (e *Engine) BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (step statestore.IndexProgress, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*e.access.RequestTimeout)
	defer cancel()
	for stands := false; !stands && err == nil; {
		step, stands, err = e.buildStep(ctx, paths, until, limit)
		// Fewer keys: a step stands only if nobody writes one of them meanwhile.
		limit = (limit + 1) / 2
	}
	if err != nil {
		return statestore.IndexProgress{}, fmt.Errorf("build query indexes: %w", err)
	}
	return step, nil
}

// buildStep returns stands as false if another process changed what it goes by.
func (e *Engine) buildStep(ctx context.Context, paths []string, until time.Time, limit int) (step statestore.IndexProgress, stands bool, err error) {
	newest, _, err := e.refresh(ctx)
	if err != nil {
		return step, false, err
	}
	r, changed, building := newest.copy(), false, -1
	for _, path := range paths {
		i := r.find(path)
		if i < 0 {
			field, err := statestore.ParseFieldPath(path)
			if err != nil {
				return step, false, err
			}
			r.NextID++
			i = len(r.Indexes)
			// Any value may have many keys there: a lookup that goes by that is right for all.
			r.Indexes = append(r.Indexes, index{ID: r.NextID, Path: path, State: layout.IndexBuilding, Many: true, field: field})
			changed = true
		}
		if x := &r.Indexes[i]; x.Expires < statestore.InstantOf(until) {
			x.Expires, changed = statestore.InstantOf(until), true
		}
		if building < 0 && r.Indexes[i].State == layout.IndexBuilding {
			building = i
		}
	}
	if changed {
		// It stands before the first entry: from its beginning on, writes keep an index right.
		t := newTxn()
		if err := e.save(t, r); err != nil {
			return step, false, err
		}
		stands, err = e.try(ctx, t)
		return step, stands && building < 0, err // the building goes on with the registry as it is then
	}
	if building < 0 {
		return step, true, nil
	}
	return e.build(ctx, r, building, limit)
}

// build takes the next keys into an index. Values that cannot be read have no entries.
func (e *Engine) build(ctx context.Context, r *registry, at, limit int) (step statestore.IndexProgress, stands bool, err error) {
	x := &r.Indexes[at]
	k := e.space.key(kindProgress, indexID(x.ID))
	_, kv, err := e.get(ctx, k, 0)
	if err != nil {
		return step, false, err
	}
	var p progress
	if kv != nil {
		if err := cbor.Unmarshal(kv.Value, &p); err != nil {
			return step, false, err
		}
	}
	t := newTxn()
	t.unchanged(k, revisionOf(kv))
	complete := true
	err = e.scan(ctx, e.space.after(layout.KindValue, p.Cursor), 0, min(limit, e.maxOps/4), func(_ uint64, key string, kv *mvccpb.KeyValue) bool {
		one := newTxn()
		one.unchanged(string(kv.Key), kv.ModRevision)
		if record, err := e.space.decodeRecord(string(kv.Key), kv.Value); err == nil {
			one.reindex(e.space, []index{*x}, key, nil, record.Value)
		}
		// What is added below needs room, too.
		if limit == 0 || !t.fits(e.maxOps-2, e.maxBytes-requestHead/2, one) {
			complete = false
			return false
		}
		t.add(one)
		p.Keys++
		p.Cursor = key
		limit--
		return true
	})
	if err != nil {
		return step, false, err
	}
	if complete {
		x.State = layout.IndexComplete
		if err := e.save(t, r); err != nil {
			return step, false, err
		}
		t.delete(k)
	} else {
		t.unchanged(e.space.key(kindRegistry, ""), r.revision)
		body, err := cbor.Marshal(p)
		if err != nil {
			return step, false, err
		}
		t.put(k, string(body))
	}
	stands, err = e.try(ctx, t)
	return statestore.IndexProgress{Path: x.Path, Keys: p.Keys, Complete: complete}, stands, err
}

// removeIndexes removes up to limit entries of indexes that have expired, and those indexes of which none is left.
func (e *Engine) removeIndexes(ctx context.Context, r *registry, now time.Time, limit int) (removed int, more bool, err error) {
	r = r.copy()
	at := slices.IndexFunc(r.Indexes, func(x index) bool {
		return x.State == layout.IndexRemoving || statestore.ExpiredInstant(x.Expires, now)
	})
	if at < 0 {
		return 0, false, nil
	}
	if limit <= 0 {
		return 0, true, nil
	}
	x := &r.Indexes[at]
	t := newTxn()
	if x.State != layout.IndexRemoving {
		// Once no writer adds to it any more, its entries can go.
		x.State = layout.IndexRemoving
		if err := e.save(t, r); err != nil {
			return 0, false, err
		}
		t.delete(e.space.key(kindProgress, indexID(x.ID)))
		_, err = e.try(ctx, t)
		return 1, true, err
	}
	first := e.space.key(layout.KindIndexEntry, indexID(x.ID))
	found, err := e.client.Get(ctx, first, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return 0, false, wrap(err)
	}
	if n := len(found.Kvs); n > 0 {
		_, err := e.client.Delete(ctx, first, clientv3.WithRange(string(found.Kvs[n-1].Key)+"\x00"))
		return n, true, wrap(err)
	}
	r.Indexes = slices.Delete(r.Indexes, at, at+1)
	if err := e.save(t, r); err != nil {
		return 0, false, err
	}
	_, err = e.try(ctx, t)
	return 1, true, err
}
