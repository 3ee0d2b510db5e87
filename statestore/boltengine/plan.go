package boltengine

import (
	"crypto/sha256"
	"time"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// plan decides the outcomes of transactions in memory, over what is on disk. That keeps all checks before the first write,
// which a shared commit asks for, and writes a key once however often it is changed.
type plan struct {
	b       bucket
	now     time.Time
	version uint64 // the newest that was given out
	keys    map[string]*plannedKey
	ids     map[[sha256.Size]byte]*plannedID
}

// plannedKey is a key: how it is on disk, and how it is after the transactions so far.
type plannedKey struct {
	k      []byte // on disk
	onDisk bool   // there is a record
	disk   record // zero if it is damaged
	damage error

	changed bool
	version uint64 // 0: the key does not exist
	expires int64
	set     *statestore.Write // that the version comes from, if it is not on disk
}

// plannedID is an idempotency key: until when it is remembered on disk and after the transactions so far; 0: it is not.
type plannedID struct{ disk, until int64 }

func newPlan(b bucket, now time.Time) *plan {
	return &plan{b: b, now: now, version: b.Sequence(), keys: make(map[string]*plannedKey, 1)}
}

// take decides a transaction's outcome. If that is an error, the transaction has left no trace.
func (p *plan) take(t *statestore.Transaction) error {
	var id *plannedID
	if t.IdempotencyKey != "" {
		var err error
		if id, err = p.id(sha256.Sum256([]byte(t.IdempotencyKey))); err != nil {
			return err
		}
		if id.until != 0 && !statestore.ExpiredInstant(id.until, p.now) {
			return nil
		}
	}
	for i := range t.Writes {
		w := &t.Writes[i]
		if !w.Conditional() {
			continue
		}
		k := p.key(w.Key)
		if k.damage != nil {
			return k.damage
		}
		if err := w.CheckETag(p.etag(k)); err != nil {
			return err
		}
	}
	for i := range t.Writes {
		p.apply(&t.Writes[i])
	}
	if id != nil {
		id.until = statestore.InstantOf(t.IdempotencyExpires(p.now))
	}
	return nil
}

// etag returns the key's ETag, or nothing if the key does not exist.
func (p *plan) etag(k *plannedKey) string {
	if k.version == 0 || statestore.ExpiredInstant(k.expires, p.now) {
		return ""
	}
	return p.b.etag(k.version)
}

// apply makes a write whose conditions hold. Whatever it is repairs a damaged record.
func (p *plan) apply(w *statestore.Write) {
	k := p.key(w.Key)
	k.changed, k.damage = true, nil
	if w.Op == statestore.OpDelete {
		k.version, k.expires, k.set = 0, 0, nil
		return
	}
	p.version++
	k.version, k.expires, k.set = p.version, statestore.InstantOf(w.Expires(p.now)), w
}

func (p *plan) key(key string) *plannedKey {
	if k := p.keys[key]; k != nil {
		return k
	}
	k := &plannedKey{k: valueKey(key)}
	if raw := p.b.Get(k.k); raw != nil {
		k.onDisk = true
		k.disk, k.damage = decodeRecord(k.k, raw)
		k.version, k.expires = k.disk.version, k.disk.Expires
	}
	p.keys[key] = k
	return k
}

func (p *plan) id(digest [sha256.Size]byte) (*plannedID, error) {
	if id := p.ids[digest]; id != nil {
		return id, nil
	}
	id := &plannedID{}
	at := idempotencyKey(digest[:])
	if raw := p.b.Get(at); raw != nil {
		var err error
		if id.disk, err = decodeIdempotency(at, raw); err != nil {
			return nil, err
		}
		id.until = id.disk
	}
	if p.ids == nil {
		p.ids = make(map[[sha256.Size]byte]*plannedID, 1)
	}
	p.ids[digest] = id
	return id, nil
}

// changes lists what brings the bucket to where the plan is.
func (p *plan) changes() (changes, error) {
	c := make(changes, 0, len(p.keys))
	indexes := p.b.indexes((*index).kept)
	for key, k := range p.keys {
		if !k.changed {
			continue
		}
		if k.disk.Expires != 0 && k.disk.Expires != k.expires {
			c.delete(layout.TimeKey(layout.KindExpiry, k.disk.Expires, key))
		}
		if k.expires != 0 && k.expires != k.disk.Expires {
			c.put(layout.TimeKey(layout.KindExpiry, k.expires, key), nil)
		}
		var value []byte
		if k.set != nil {
			value = k.set.Value
			c.put(k.k, encodeRecord(k.k, k.version, k.expires, k.set))
		} else if k.onDisk {
			c.delete(k.k)
		}
		c.reindex(indexes, k.k[1:], k.disk.Value, value)
	}
	for digest, id := range p.ids {
		if id.until == id.disk {
			continue
		}
		if id.disk != 0 {
			c.delete(layout.TimeKey(layout.KindIdempotencyTime, id.disk, digest[:]))
		}
		at := idempotencyKey(digest[:])
		c.put(at, layout.EncodeIdempotency(recordFormat, at, id.until))
		c.put(layout.TimeKey(layout.KindIdempotencyTime, id.until, digest[:]), nil)
	}
	return c, c.save(indexes)
}

// write makes the changes that the plan has listed.
func (p *plan) write(c changes) error {
	if p.dense() {
		p.b.SetFillPercent(denseFill)
	}
	if err := c.write(p.b); err != nil || p.version == p.b.Sequence() {
		return err
	}
	return p.b.SetSequence(p.version)
}

const (
	// denseFill packs pages of keys that come in their order, as an import writes them; others leave bbolt's room for what
	// comes between.
	denseFill = 0.9
	// denseKeys is how many it takes to be sure.
	denseKeys = 64
)

// dense reports whether the plan sets many keys, and no stored one lies between them.
func (p *plan) dense() bool {
	if len(p.keys) < denseKeys {
		return false
	}
	var first, last string
	for key, k := range p.keys {
		if k.onDisk || k.set == nil {
			return false
		}
		if first == "" || key < first {
			first = key
		}
		last = max(last, key)
	}
	next, _ := p.b.Cursor().Seek(valueKey(first))
	return string(next) > string(valueKey(last)) || next == nil
}
