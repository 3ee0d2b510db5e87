package etcdengine

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// txn is an etcd transaction that is being put together. No key is written twice.
type txn struct {
	conditions map[string]clientv3.Cmp
	ops        map[string]clientv3.Op
	bytes      int

	lost []lostEntry // those that ops delete
	late []lostEntry // those that are to be deleted afterwards
}

// lostEntry is an entry of an index, and the value's key in etcd which the transaction takes it from. It means nothing then.
type lostEntry struct{ entry, of string }

func newTxn() *txn {
	return &txn{conditions: make(map[string]clientv3.Cmp), ops: make(map[string]clientv3.Op)}
}

// opHead is more than a request takes for an operation beside its key and value, in bytes.
const opHead = 32

func (t *txn) put(k, v string) {
	t.ops[k] = clientv3.OpPut(k, v)
	t.bytes += len(k) + len(v) + opHead
}

func (t *txn) delete(k string) {
	t.ops[k] = clientv3.OpDelete(k)
	t.bytes += len(k) + opHead
}

// unchanged makes the transaction depend on the key being in the revision that wrote it last; 0: it does not exist.
func (t *txn) unchanged(k string, revision int64) {
	if _, twice := t.conditions[k]; !twice {
		t.conditions[k] = clientv3.Compare(clientv3.ModRevision(k), "=", revision)
		t.bytes += len(k) + opHead
	}
}

// revisionOf returns the revision that wrote a key last; 0: it does not exist.
func revisionOf(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return kv.ModRevision
}

// fits reports whether servers that take so much take both as one.
func (t *txn) fits(maxOps, maxBytes int, other *txn) bool {
	return len(t.ops)+len(other.ops) <= maxOps && len(t.conditions)+len(other.conditions) <= maxOps &&
		t.bytes+other.bytes <= maxBytes-opHead
}

func (t *txn) add(other *txn) {
	maps.Copy(t.conditions, other.conditions)
	maps.Copy(t.ops, other.ops)
	t.bytes += other.bytes
	t.late = append(t.late, other.late...)
}

// shrink leaves as many lost entries for afterwards as it takes for other to fit beside t. There can be more of them than a
// transaction takes: each index was built by itself.
func (t *txn) shrink(maxOps, maxBytes int, other *txn) {
	for len(other.lost) > 0 && !t.fits(maxOps, maxBytes, other) {
		first := other.lost[0]
		delete(other.ops, first.entry)
		other.bytes -= len(first.entry) + opHead
		other.lost, other.late = other.lost[1:], append(other.late, first)
	}
}

// known is what was read: keys in etcd, with nil for those that do not exist.
type known struct {
	cluster uint64
	kvs     map[string]*mvccpb.KeyValue
}

// plan decides the outcomes of transactions over what is known, and puts together the etcd transaction that makes them come
// true if nothing of that has changed.
type plan struct {
	e       *Engine
	now     time.Time
	known   *known
	indexes []index
	txn     *txn // of the transactions so far
}

func newPlan(e *Engine, now time.Time, known *known) *plan {
	r := e.registry.Load()
	p := &plan{e: e, now: now, known: known, indexes: r.kept(), txn: newTxn()}
	// Whoever writes must know the indexes as they are.
	p.txn.unchanged(e.space.key(kindRegistry, ""), r.revision)
	return p
}

func (e *Engine) idempotencyKey(key string) string {
	digest := sha256.Sum256([]byte(key))
	return e.space.key(layout.KindIdempotency, string(digest[:]))
}

// take decides a transaction's outcome. If full is true, it did not: the transaction is for another commit, because it
// depends on what an earlier one of this commit writes, or because there is no room.
func (p *plan) take(t *statestore.Transaction) (outcome error, full bool) {
	s := &step{plan: p, own: newTxn()}
	outcome = s.take(t)
	if len(p.txn.ops) == 0 {
		p.txn.shrink(p.e.maxOps, p.e.maxBytes, s.own)
	}
	if s.waits || !p.txn.fits(p.e.maxOps, p.e.maxBytes, s.own) {
		return nil, true
	}
	p.txn.add(s.own)
	return outcome, false
}

// tooLarge refuses a transaction that is more than one commit takes.
func (p *plan) tooLarge(t *statestore.Transaction) error {
	return &invalid.Error{
		Field: "operations", Value: fmt.Sprintf("(%d of them)", len(t.Writes)),
		Allowed: fmt.Sprintf("what etcd takes in one transaction: %d operations (--max-txn-ops; a write is one, one more if it expires, and one for each change of an index) and %d bytes (--max-request-bytes)",
			p.e.maxOps, p.e.maxBytes),
	}
}

// step is one transaction of a plan.
type step struct {
	*plan
	own   *txn
	waits bool // for the commit of an earlier one, which writes a key of this one
}

func (s *step) take(t *statestore.Transaction) error {
	var id string
	if t.IdempotencyKey != "" {
		id = s.e.idempotencyKey(t.IdempotencyKey)
		if used, err := s.remembered(id); used || err != nil {
			return err
		}
	}
	for i := range t.Writes {
		if w := &t.Writes[i]; w.Conditional() {
			if err := s.check(w); err != nil {
				return err
			}
		}
	}
	last := make(map[string]*statestore.Write, len(t.Writes))
	for i := range t.Writes {
		last[t.Writes[i].Key] = &t.Writes[i]
	}
	for i := range t.Writes {
		if w := &t.Writes[i]; last[w.Key] == w {
			s.write(w)
		}
	}
	if id != "" {
		expires := statestore.InstantOf(t.IdempotencyExpires(s.now))
		s.own.put(id, encodeIdempotency(id, expires))
		s.own.put(s.e.space.timeKey(layout.KindIdempotencyTime, expires, s.e.space.of(id)), "")
	}
	return nil
}

// remembered reports whether the idempotency key was used already.
func (s *step) remembered(id string) (bool, error) {
	kv := s.depend(id)
	if kv == nil {
		return false, nil
	}
	expires, err := s.e.space.decodeIdempotency(id, kv.Value)
	return err == nil && !statestore.ExpiredInstant(expires, s.now), err
}

// check compares a write's ETag with what is stored.
func (s *step) check(w *statestore.Write) error {
	item := s.e.item(s.known.cluster, w.Key, s.depend(s.e.space.key(layout.KindValue, w.Key)), math.MaxInt, s.now)
	if item.Err != nil {
		return item.Err
	}
	return w.CheckETag(item.ETag)
}

func (s *step) write(w *statestore.Write) {
	k := s.e.space.key(layout.KindValue, w.Key)
	s.needs(k)
	if len(s.indexes) > 0 {
		var before []byte
		if kv := s.depend(k); kv != nil {
			// A record that cannot be read has no entries that could be found.
			if r, err := s.e.space.decodeRecord(k, kv.Value); err == nil {
				before = r.Value
			}
		}
		s.own.reindex(s.e.space, s.indexes, w.Key, before, w.Value)
	}
	if w.Op == statestore.OpDelete {
		s.own.delete(k)
		return
	}
	expires := statestore.InstantOf(w.Expires(s.now))
	s.own.put(k, encodeRecord(k, expires, w))
	if expires != 0 {
		s.own.put(s.e.space.timeKey(layout.KindExpiry, expires, w.Key), "")
	}
}

// depend makes the commit depend on a key, and returns what is known of it.
func (s *step) depend(k string) *mvccpb.KeyValue {
	s.needs(k)
	kv := s.known.kvs[k]
	s.own.unchanged(k, revisionOf(kv))
	return kv
}

// needs makes the transaction wait for the commit of an earlier one that writes the key.
func (s *step) needs(k string) {
	_, written := s.txn.ops[k]
	s.waits = s.waits || written
}
