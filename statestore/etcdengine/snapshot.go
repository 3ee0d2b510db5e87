package etcdengine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// View implements statestore.Engine.
func (e *Engine) View(ctx context.Context, now time.Time, fn func(statestore.Snapshot) error) error {
	registry, revision, err := e.refresh(ctx)
	if err != nil {
		return err
	}
	return fn(&snapshot{e: e, ctx: ctx, revision: revision, registry: registry, now: now})
}

// snapshot is a revision.
type snapshot struct {
	e        *Engine
	ctx      context.Context
	revision int64
	registry *registry
	now      time.Time
}

// Get implements statestore.Snapshot.
func (s *snapshot) Get(key string, room int) statestore.Item {
	at, kv, err := s.e.get(s.ctx, s.e.space.key(layout.KindValue, key), s.revision)
	if err != nil {
		return statestore.Item{Key: key, Err: err}
	}
	return s.e.item(at.ClusterId, key, kv, room, s.now)
}

// Scan implements statestore.Snapshot.
func (s *snapshot) Scan(after string, visit func(key, value []byte) bool) error {
	var damage error
	err := s.e.scan(s.ctx, s.e.space.after(layout.KindValue, after), s.revision, readFirst, func(_ uint64, key string, kv *mvccpb.KeyValue) bool {
		r, err := s.e.space.decodeRecord(string(kv.Key), kv.Value)
		if err != nil {
			damage = err
			return false
		}
		return statestore.ExpiredInstant(r.Expires, s.now) || visit([]byte(key), r.Value)
	})
	return errors.Join(damage, err)
}

// scan shows the values at revision (0: the present one, of each page) whose keys in etcd are at or after from. It begins
// with first keys at once.
func (e *Engine) scan(ctx context.Context, from string, revision int64, first int, visit func(cluster uint64, key string, kv *mvccpb.KeyValue) bool) error {
	end := e.space.end(layout.KindValue)
	for limit := first; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := e.page(ctx, from, end, limit, revision)
		if err != nil {
			return err
		}
		size := 0
		for _, kv := range page.Kvs {
			size += len(kv.Value)
			if !visit(page.Header.ClusterId, e.space.of(string(kv.Key)), kv) {
				return nil
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		limit = nextStep(limit, size)
	}
}

// page reads up to limit keys of a range.
func (e *Engine) page(ctx context.Context, from, end string, limit int, revision int64, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, e.access.RequestTimeout)
	defer cancel()
	opts = append(opts, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(int64(limit)))
	page, err := e.client.Get(bounded, from, opts...)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return page, wrap(err)
}

// Indexes implements statestore.Snapshot.
func (s *snapshot) Indexes() map[string]bool {
	complete := make(map[string]bool)
	for _, x := range s.registry.Indexes {
		if x.State == layout.IndexComplete {
			complete[x.Path] = x.Many
		}
	}
	return complete
}

// Lookup implements statestore.Snapshot.
func (s *snapshot) Lookup(path string, r statestore.IndexRange, after string, visit func(indexKey, key, value []byte) bool) error {
	at := s.registry.find(path)
	if at < 0 || s.registry.Indexes[at].State != layout.IndexComplete {
		return fmt.Errorf("there is no complete index on %q", path)
	}
	id := indexID(s.registry.Indexes[at].ID)
	from := s.e.space.key(layout.KindIndexEntry, id+string(r.From))
	if r.Single() {
		from += after + "\x00"
	}
	end := clientv3.GetPrefixRangeEnd(s.e.space.key(layout.KindIndexEntry, id))
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		page, err := s.e.page(s.ctx, from, end, s.e.maxOps, s.revision)
		if err != nil {
			return err
		}
		var indexKeys [][]byte
		var names []string
		below := false
		for _, kv := range page.Kvs {
			indexKey, key, ok := layout.ParseIndexEntry(kv.Key[len(s.e.space):], kv.Value)
			if !ok {
				return &statestore.DamagedError{Record: fmt.Sprintf("index on %q", path), Err: errors.New("an entry has not the form of one")}
			}
			if below = r.Below(indexKey); below {
				break
			}
			if string(key) > after {
				indexKeys, names = append(indexKeys, indexKey), append(names, s.e.space.key(layout.KindValue, string(key)))
			}
		}
		var ended bool
		var damage error
		err = s.e.read(s.ctx, names, s.revision, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
			if kv == nil {
				return true
			}
			found, err := s.e.space.decodeRecord(names[i], kv.Value)
			if err != nil {
				damage = err
				return false
			}
			if !statestore.ExpiredInstant(found.Expires, s.now) && !visit(indexKeys[i], []byte(s.e.space.of(names[i])), found.Value) {
				ended = true
			}
			return !ended
		})
		if err = errors.Join(damage, err); err != nil || ended || below || !page.More || len(page.Kvs) == 0 {
			return err
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}
