package etcdengine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// SweepLeaseTTL is how long a process that sweeps keeps others from it after its last step. If it is killed, another one
// takes over after that time.
const SweepLeaseTTL = 90 * time.Second

// sweepLease is the lease of a process that sweeps. It bounds work, not correctness: every step of a sweep depends on what
// it has read.
type sweepLease struct {
	mu sync.Mutex
	id clientv3.LeaseID // 0: none
}

// Sweep implements statestore.Engine. Only the process that holds the bucket's lease sweeps; for all others, there is
// nothing to do.
func (e *Engine) Sweep(ctx context.Context, now time.Time, limit int) (swept int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*e.access.RequestTimeout)
	defer cancel()
	mine, err := e.holdSweepLease(ctx)
	if err != nil || !mine {
		return 0, false, err
	}
	r, _, err := e.refresh(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("sweep state: %w", err)
	}
	var damage error
	for _, of := range []struct{ entry, target byte }{{layout.KindExpiry, layout.KindValue}, {layout.KindIdempotencyTime, layout.KindIdempotency}} {
		if swept >= limit {
			return swept, true, damage
		}
		n, again, damaged, err := e.sweepKind(ctx, r, of.entry, of.target, now, limit-swept)
		damage = errors.Join(damage, damaged)
		if err != nil {
			return swept, false, fmt.Errorf("sweep state: %w", errors.Join(damage, err))
		}
		if swept += n; again {
			return swept, true, damage
		}
	}
	removed, more, err := e.removeIndexes(ctx, r, now, limit-swept)
	return swept + removed, more, errors.Join(damage, err)
}

// sweepKind removes what has expired of one kind, the oldest first. again: there may be more.
func (e *Engine) sweepKind(ctx context.Context, r *registry, entry, target byte, now time.Time, limit int) (swept int, again bool, damage, err error) {
	first, end := e.space.key(entry, ""), e.space.timeKey(entry, now.UnixNano()+1, "")
	page, err := e.page(ctx, first, end, limit, 0, clientv3.WithKeysOnly())
	if err != nil || len(page.Kvs) == 0 {
		return 0, false, nil, err
	}
	t := newTxn()
	indexes := r.kept()
	t.unchanged(e.space.key(kindRegistry, ""), r.revision)
	entries := make(map[string]*mvccpb.KeyValue)
	var targets []string
	for _, kv := range page.Kvs {
		_, of, err := layout.ParseTimeKey(kv.Key[len(e.space):])
		if err != nil { // a malformed entry can only be removed
			damage = errors.Join(damage, fmt.Errorf("%w: %w", statestore.ErrDamaged, err))
			t.delete(string(kv.Key))
			swept++
			continue
		}
		k := e.space.key(target, string(of))
		if _, twice := entries[k]; twice {
			again = true // an older entry of the same key goes first
			break
		}
		entries[k] = kv
		targets = append(targets, k)
	}
	taken := 0
	err = e.read(ctx, targets, 0, func(_ uint64, i int, kv *mvccpb.KeyValue) bool {
		one := newTxn()
		damaged := e.sweepOne(one, indexes, entries[targets[i]], target, targets[i], kv)
		if len(t.ops) == 0 {
			t.shrink(e.maxOps, e.maxBytes, one)
		} else if !t.fits(e.maxOps, e.maxBytes, one) {
			return false
		}
		damage = errors.Join(damage, damaged)
		t.add(one)
		swept++
		taken++
		return true
	})
	if err != nil {
		return 0, false, damage, err
	}
	again = again || page.More || taken < len(targets)
	stands, err := e.try(ctx, t)
	if err != nil {
		return 0, false, damage, err
	}
	if !stands { // somebody has written one of the keys meanwhile
		return 0, true, nil, nil
	}
	return swept, again, damage, nil
}

// sweepOne adds what removes an entry in time order, and its target k unless that was written anew since. Only a target that
// goes has to stay as it is until then: one that is written all the time must not keep its entries.
func (e *Engine) sweepOne(t *txn, indexes []index, entry *mvccpb.KeyValue, target byte, k string, kv *mvccpb.KeyValue) (damage error) {
	instant, _, _ := layout.ParseTimeKey(entry.Key[len(e.space):]) // which it has
	t.unchanged(string(entry.Key), entry.ModRevision)
	t.delete(string(entry.Key))
	if kv == nil {
		return nil
	}
	if target == layout.KindIdempotency {
		expires, err := e.space.decodeIdempotency(k, kv.Value)
		// A damaged record goes too: it would stand in the way of its key for ever.
		if err != nil || expires == instant {
			t.unchanged(k, kv.ModRevision)
			t.delete(k)
		}
		return err
	}
	found, err := e.space.decodeRecord(k, kv.Value)
	if err != nil || found.Expires != instant {
		return err
	}
	t.unchanged(k, kv.ModRevision)
	t.delete(k)
	t.reindex(e.space, indexes, e.space.of(k), found.Value, nil)
	return nil
}

// holdSweepLease reports whether this process is the one that sweeps, and makes it that if there is none.
func (e *Engine) holdSweepLease(ctx context.Context) (bool, error) {
	s := &e.sweeping
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != 0 {
		if _, err := e.client.KeepAliveOnce(ctx, s.id); err == nil {
			return true, nil
		}
		s.id = 0
	}
	k := e.space.key(kindSweeper, "")
	found, err := e.client.Get(ctx, k, clientv3.WithCountOnly())
	if err != nil || found.Count > 0 {
		return false, wrap(err)
	}
	lease, err := e.client.Grant(ctx, int64(SweepLeaseTTL/time.Second))
	if errors.Is(err, rpctypes.ErrNoSpace) {
		// Servers without room grant no leases, but delete: what has expired is what makes room.
		return true, nil
	}
	if err != nil {
		return false, wrap(err)
	}
	answer, err := e.commitTxn(ctx, e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(k), "=", 0)).
		Then(clientv3.OpPut(k, "", clientv3.WithLease(lease.ID))))
	if err != nil {
		return false, err
	}
	if !answer.Succeeded {
		_, err := e.client.Revoke(ctx, lease.ID)
		return false, wrap(err)
	}
	s.id = lease.ID
	return true, nil
}

// release lets another process sweep. One that cannot be told so waits for the lease to end.
func (e *Engine) release(ctx context.Context) {
	e.sweeping.mu.Lock()
	defer e.sweeping.mu.Unlock()
	if e.sweeping.id != 0 {
		_, _ = e.client.Revoke(ctx, e.sweeping.id)
		e.sweeping.id = 0
	}
}
