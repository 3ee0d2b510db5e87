package etcdengine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// View implements statestore.Engine.
func (e *Engine) View(ctx context.Context, now time.Time, fn func(statestore.Snapshot) error) error {
	registry, revision, err := e.snapshotRegistry(ctx)
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
func (s *snapshot) Get(key string, room int) (item statestore.Item) {
	_, err := s.e.read(s.ctx, []string{s.e.space.key(kindValue, key)}, s.revision, func(cluster uint64, _ int, kv *mvccpb.KeyValue) bool {
		item = s.e.item(cluster, key, kv, room, s.now)
		return true
	})
	if err != nil {
		return statestore.Item{Key: key, Err: err}
	}
	return item
}

// Scan implements statestore.Snapshot.
func (s *snapshot) Scan(after string, visit func(key, value []byte) bool) error {
	var damage error
	err := s.e.scan(s.ctx, s.e.space.key(kindValue, after), after != "", s.revision, readFirst, func(_ uint64, key string, kv *mvccpb.KeyValue) bool {
		r, err := decodeRecord(key, string(kv.Key), kv.Value)
		if err != nil {
			damage = err
			return false
		}
		return statestore.ExpiredInstant(r.expires, s.now) || visit([]byte(key), r.value)
	})
	return errors.Join(damage, err)
}

// scan shows the values at revision (0: the present one, of each page) whose keys in etcd are at or after from, or after it.
// It begins with first keys at once.
func (e *Engine) scan(ctx context.Context, from string, after bool, revision int64, first int, visit func(cluster uint64, key string, kv *mvccpb.KeyValue) bool) error {
	const most = 4096 // keys at once
	head, end := len(e.space)+1, e.space.end(kindValue)
	if after {
		from += "\x00"
	}
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
			if !visit(page.Header.ClusterId, string(kv.Key[head:]), kv) {
				return nil
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		if size < readBytes/2 {
			limit = min(2*limit, most)
		} else if size > 2*readBytes {
			limit = max(limit/2, 1)
		}
	}
}

// page reads up to limit keys of a range.
func (e *Engine) page(ctx context.Context, from, end string, limit int, revision int64, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, e.config.RequestTimeout)
	defer cancel()
	opts = append(opts, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(int64(limit)))
	page, err := e.client.Get(bounded, from, opts...)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return page, wrap(err)
}

// Indexes implements statestore.Snapshot.
func (s *snapshot) Indexes() (map[string]bool, error) {
	complete := make(map[string]bool)
	for _, x := range s.registry.Indexes {
		if x.State == indexComplete {
			complete[x.Path] = x.Many
		}
	}
	return complete, nil
}

// Lookup implements statestore.Snapshot.
func (s *snapshot) Lookup(path string, r statestore.IndexRange, after string, visit func(indexKey, key, value []byte) bool) error {
	at := s.registry.find(path)
	if at < 0 || s.registry.Indexes[at].State != indexComplete {
		return fmt.Errorf("there is no complete index on %q", path)
	}
	id := indexID(s.registry.Indexes[at].ID)
	from := s.e.space.key(kindIndexEntry, id+string(r.From))
	if r.Single() && after != "" {
		from += after + "\x00"
	}
	end := clientv3.GetPrefixRangeEnd(s.e.space.key(kindIndexEntry, id))
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		page, err := s.e.page(s.ctx, from, end, s.e.maxOps, s.revision)
		if err != nil {
			return err
		}
		var indexKeys [][]byte
		var keys, names []string
		below := false
		for _, kv := range page.Kvs {
			indexKey, key, ok := s.e.space.parseIndexEntry(kv.Key, kv.Value)
			if !ok {
				return &statestore.DamagedError{Record: fmt.Sprintf("index on %q", path), Err: errors.New("an entry has not the form of one")}
			}
			if below = r.Below(indexKey); below {
				break
			}
			if key > after {
				indexKeys, keys, names = append(indexKeys, indexKey), append(keys, key), append(names, s.e.space.key(kindValue, key))
			}
		}
		var ended bool
		var damage error
		_, err = s.e.read(s.ctx, names, s.revision, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
			if kv == nil {
				return true
			}
			found, err := decodeRecord(keys[i], names[i], kv.Value)
			if err != nil {
				damage = err
				return false
			}
			if !statestore.ExpiredInstant(found.expires, s.now) && !visit(indexKeys[i], []byte(keys[i]), found.value) {
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
