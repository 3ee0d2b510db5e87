package etcdengine

import (
	"crypto/sha256"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// txn is an etcd transaction that is being put together. It names no key twice.
type txn struct {
	conditions []clientv3.Cmp
	ops        []clientv3.Op
	bytes      int
}

// opHead is more than a request takes for an operation beside its key and value, in bytes.
const opHead = 32

func (t *txn) put(k, v string) {
	t.ops = append(t.ops, clientv3.OpPut(k, v))
	t.bytes += len(k) + len(v) + opHead
}

func (t *txn) delete(k string) {
	t.ops = append(t.ops, clientv3.OpDelete(k))
	t.bytes += len(k) + opHead
}

// unchanged makes the transaction depend on the key being in the revision that wrote it last; 0: it does not exist.
func (t *txn) unchanged(k string, revision int64) {
	t.conditions = append(t.conditions, clientv3.Compare(clientv3.ModRevision(k), "=", revision))
	t.bytes += len(k) + opHead
}

// fits reports whether the servers take both as one.
func (t *txn) fits(e *Engine, other *txn) bool {
	return len(t.ops)+len(other.ops) <= e.maxOps && len(t.conditions)+len(other.conditions) <= e.maxOps &&
		t.bytes+other.bytes <= e.maxBytes-opHead
}

func (t *txn) add(other *txn) {
	t.conditions = append(t.conditions, other.conditions...)
	t.ops = append(t.ops, other.ops...)
	t.bytes += other.bytes
}

// known is what was read: keys in etcd, with nil for those that do not exist.
type known struct {
	cluster uint64
	kvs     map[string]*mvccpb.KeyValue
}

// plan decides the outcomes of transactions over what is known, and puts together the etcd transaction that makes them come
// true if nothing of that has changed.
type plan struct {
	e        *Engine
	now      time.Time
	known    *known
	registry *registry
	txn      txn

	touched map[string]bool // the keys in etcd that transactions so far have read or changed
	changed map[string]bool // those that they have changed
}

func newPlan(e *Engine, now time.Time, known *known) *plan {
	p := &plan{e: e, now: now, known: known, registry: e.registry.Load(), touched: make(map[string]bool), changed: make(map[string]bool)}
	// Whoever writes must know the indexes as they are.
	p.txn.unchanged(e.space.key(kindRegistry, ""), p.registry.revision)
	return p
}

func (e *Engine) idempotencyKey(key string) string {
	digest := sha256.Sum256([]byte(key))
	return e.space.key(kindIdempotency, string(digest[:]))
}

// take decides a transaction's outcome. If full is true, it did not: the transaction is for another commit, because it
// depends on what an earlier one of this commit writes, or because there is no room.
func (p *plan) take(t *statestore.Transaction) (outcome error, full bool) {
	s := &step{plan: p, read: map[string]bool{}, wrote: map[string]bool{}}
	outcome = s.take(t)
	if s.waits || !p.txn.fits(p.e, &s.txn) {
		return nil, true
	}
	p.txn.add(&s.txn)
	for k := range s.read {
		p.touched[k] = true
	}
	for k := range s.wrote {
		p.touched[k], p.changed[k] = true, true
	}
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
	txn         txn
	read, wrote map[string]bool
	waits       bool // for the commit of an earlier one
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
		s.wrote[id] = true
		s.txn.put(id, encodeIdempotency(id, expires))
		s.txn.put(s.e.space.timeKey(kindIdempotencyTime, expires, id[len(s.e.space)+1:]), "")
	}
	return nil
}

// remembered reports whether the idempotency key was used already.
func (s *step) remembered(id string) (bool, error) {
	kv := s.depend(id)
	if kv == nil {
		return false, nil
	}
	expires, err := decodeIdempotency(id[len(s.e.space)+1:], id, kv.Value)
	return err == nil && !statestore.ExpiredInstant(expires, s.now), err
}

// check compares a write's ETag with what is stored.
func (s *step) check(w *statestore.Write) error {
	kv := s.depend(s.e.space.key(kindValue, w.Key))
	if kv == nil {
		return w.CheckETag("")
	}
	r, err := decodeRecord(w.Key, string(kv.Key), kv.Value)
	if err != nil {
		return err
	}
	if statestore.ExpiredInstant(r.expires, s.now) {
		return w.CheckETag("")
	}
	return w.CheckETag(s.e.etag(s.known.cluster, w.Key, kv.ModRevision))
}

func (s *step) write(w *statestore.Write) {
	k := s.e.space.key(kindValue, w.Key)
	s.waits = s.waits || s.changed[k]
	s.wrote[k] = true
	if indexes := s.registry.kept(); len(indexes) > 0 {
		var before []byte
		if kv := s.depend(k); kv != nil {
			// A record that cannot be read has no entries that could be found.
			if r, err := decodeRecord(w.Key, k, kv.Value); err == nil {
				before = r.value
			}
		}
		s.txn.reindex(s.e.space, indexes, w.Key, before, w.Value)
	}
	if w.Op == statestore.OpDelete {
		s.txn.delete(k)
		return
	}
	expires := statestore.InstantOf(w.Expires(s.now))
	s.txn.put(k, encodeRecord(k, expires, w))
	if expires != 0 {
		s.txn.put(s.e.space.timeKey(kindExpiry, expires, w.Key), "")
	}
}

// depend makes the commit depend on a key, and returns what is known of it.
func (s *step) depend(k string) *mvccpb.KeyValue {
	s.waits = s.waits || s.changed[k]
	kv := s.known.kvs[k]
	if !s.read[k] && !s.touched[k] {
		var revision int64
		if kv != nil {
			revision = kv.ModRevision
		}
		s.txn.unchanged(k, revision)
	}
	s.read[k] = true
	return kv
}
