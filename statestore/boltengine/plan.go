package boltengine

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// plan decides the outcomes of units in memory, over what is on disk, and then writes what remains of them: that keeps
// all checks before the first write, which a shared transaction asks for, and writes a key once however often it is
// changed.
//
// An engine has one for all its calls, since only the file's writer runs them: begin makes it ready for the next.
type plan struct {
	// tx, ns and cursor last as long as the transaction; nil: there is none. ending says that a key of the namespace may
	// have an end.
	tx     *bbolt.Tx
	ns     *bbolt.Bucket
	cursor *bbolt.Cursor
	ending bool

	now    time.Time
	key    []byte // of the record that is read or written next
	record record // that is written next

	first, version uint64 // the newest version on disk, and the newest one given out here

	entries map[string]*entry
	pool    []entry // where entries come from
	touched []*entry
	marks   map[[sha256.Size]byte]*markEntry
	marked  []*markEntry
}

// keptEntries is how many entries a plan may have had for their memory to be used again.
const keptEntries = 256

// entry is a key: how it is on disk, and how it is after the units so far.
type entry struct {
	key string
	// read says that what follows is known. Who sets a key whatever it is need not know.
	read   bool
	stored bool   // there is a record on disk
	disk   header // of that record; zero if it is damaged
	damage error

	changed bool
	next    header             // Version 0: the key does not exist
	set     *statestore.Change // the set that next comes from
}

// markEntry is an idempotency key. Ends are instants; 0: it is not remembered.
type markEntry struct {
	digest      [sha256.Size]byte
	disk, until int64
}

// begin makes the plan ready for a call in tx.
func (p *plan) begin(e *engine, tx *bbolt.Tx, now time.Time) error {
	if p.tx != tx {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		p.tx, p.ns, p.cursor = tx, ns, ns.Cursor()
		first, _ := p.cursor.Seek([]byte{prefixExpiry})
		p.ending = len(first) > 0 && first[0] == prefixExpiry
		e.fileSize.Store(tx.Size())
		// What a transaction has read and written must not stay in memory until the next one.
		tx.OnCommit(func() { p.tx, p.ns, p.cursor = nil, nil, nil })
	}
	p.now, p.first = now, p.ns.Sequence()
	p.version = p.first
	return nil
}

// end lets go of the call's keys and values.
func (p *plan) end() {
	if len(p.entries) > keptEntries {
		p.entries, p.pool, p.touched = nil, nil, nil
	}
	clear(p.entries)
	clear(p.pool)
	clear(p.touched)
	p.pool, p.touched = p.pool[:0], p.touched[:0]
	p.marks, p.marked, p.record = nil, nil, record{}
}

// read returns what is on disk under a key. It is valid until the next write.
func (p *plan) read(k []byte) []byte {
	found, raw := p.cursor.Seek(k)
	if !bytes.Equal(found, k) {
		return nil
	}
	return raw
}

// take decides one unit's outcome. If that is an error, the unit has left no trace.
func (p *plan) take(u *statestore.Unit) error {
	var m *markEntry
	if u.IdempotencyKey != "" {
		var err error
		if m, err = p.mark(u.IdempotencyKey); err != nil {
			return err
		}
		if m.until != 0 && statestore.Live(instantTime(m.until), p.now) {
			return nil
		}
	}
	for i := range u.Changes {
		c := &u.Changes[i]
		if !c.Conditional() {
			continue
		}
		e := p.entry(c.Key)
		p.look(e)
		if e.damage != nil {
			return e.damage
		}
		if err := c.Check(p.present(e)); err != nil {
			return err
		}
	}
	for i := range u.Changes {
		p.apply(&u.Changes[i])
	}
	if m != nil {
		m.until = instantOf(u.IdempotencyEnd)
		p.marked = append(p.marked, m)
	}
	return nil
}

// present returns the key's ETag, or nothing if the key does not exist.
func (p *plan) present(e *entry) string {
	if e.next.Version == 0 || !statestore.Live(instantTime(e.next.ExpiresAt), p.now) {
		return ""
	}
	return etag(e.next.Version)
}

func (p *plan) apply(c *statestore.Change) {
	e := p.entry(c.Key)
	if !e.changed {
		e.changed = true
		p.touched = append(p.touched, e)
	}
	e.damage = nil
	if c.Op == statestore.OpDelete {
		e.next, e.set = header{}, nil
		return
	}
	p.version++
	e.next, e.set = header{Version: p.version, ExpiresAt: instantOf(c.ExpiresAt)}, c
}

func (p *plan) entry(key string) *entry {
	if e := p.entries[key]; e != nil {
		return e
	}
	e := p.newEntry(key)
	if p.entries == nil {
		p.entries = make(map[string]*entry, 1)
	}
	p.entries[key] = e
	return e
}

// look finds out how an entry is on disk, and that it is still so if nothing has changed it.
func (p *plan) look(e *entry) {
	if e.read {
		return
	}
	e.read = true
	p.key = valueKey(p.key, e.key)
	raw := p.read(p.key)
	if raw == nil {
		return
	}
	e.stored = true
	disk, damage := decodeRecord(e.key, raw)
	e.disk = disk.header
	// Unconditional changes repair a damaged record. An entry in time order that it may have had is harmless.
	if !e.changed {
		e.next, e.damage = disk.header, damage
	}
}

func (p *plan) newEntry(key string) *entry {
	if len(p.pool) == cap(p.pool) {
		// Those that were given out stay where they are.
		p.pool = make([]entry, 0, 2*cap(p.pool)+1)
	}
	p.pool = append(p.pool, entry{key: key})
	return &p.pool[len(p.pool)-1]
}

func (p *plan) mark(key string) (*markEntry, error) {
	digest := sha256.Sum256([]byte(key))
	if m := p.marks[digest]; m != nil {
		return m, nil
	}
	m := &markEntry{digest: digest}
	if raw := p.read(idempotencyKey(digest)); raw != nil {
		stored, err := decodeMark(digest[:], raw)
		if err != nil {
			return nil, err
		}
		m.disk, m.until = stored.ExpiresAt, stored.ExpiresAt
	}
	if p.marks == nil {
		p.marks = make(map[[sha256.Size]byte]*markEntry, 1)
	}
	p.marks[digest] = m
	return m, nil
}

// write brings the namespace to where the plan is.
func (p *plan) write() error {
	if p.sequential() {
		p.ns.FillPercent = sequentialFill
	}
	indexes := keptIndexes(p.cursor)
	for _, e := range p.touched {
		if p.ending || len(indexes) > 0 || e.set == nil {
			p.look(e)
		}
		if err := p.writeIndexes(indexes, e); err != nil {
			return err
		}
		if err := p.writeEntry(e); err != nil {
			return err
		}
	}
	for _, m := range p.marked {
		if err := p.writeMark(m); err != nil {
			return err
		}
	}
	if p.version == p.first {
		return nil
	}
	return p.ns.SetSequence(p.version)
}

const (
	// sequentialFill packs pages of keys that come in their order, as an import writes them; others leave bbolt's room
	// for what comes between.
	sequentialFill = 0.9
	// sequentialKeys is how many it takes to be sure.
	sequentialKeys = 64
)

// sequential says that the changes are many new keys in ascending order.
func (p *plan) sequential() bool {
	if len(p.touched) < sequentialKeys {
		return false
	}
	for i, e := range p.touched {
		if i > 0 && e.key < p.touched[i-1].key {
			return false
		}
	}
	return !slices.ContainsFunc(p.touched, func(e *entry) bool {
		p.look(e)
		return e.stored
	})
}

// writeIndexes must come before the record is written over.
func (p *plan) writeIndexes(indexes []*index, e *entry) error {
	if len(indexes) == 0 {
		return nil
	}
	var before, after []byte
	if e.stored {
		p.key = valueKey(p.key, e.key)
		before = storedValue(p.read(p.key))
	}
	if e.set != nil {
		after = e.set.Value
	}
	changes := replaced(indexes, []byte(e.key), before, after)
	for i := range changes {
		if err := changes[i].write(p.ns); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) writeEntry(e *entry) error {
	if e.disk.ExpiresAt != 0 && e.disk.ExpiresAt != e.next.ExpiresAt {
		if err := p.ns.Delete(timeKey(prefixExpiry, e.disk.ExpiresAt, e.key)); err != nil {
			return err
		}
	}
	p.key = valueKey(p.key, e.key)
	if e.set == nil {
		if !e.stored {
			return nil
		}
		return p.ns.Delete(p.key)
	}
	p.record = record{
		Version:     e.next.Version,
		ExpiresAt:   e.next.ExpiresAt,
		ContentType: e.set.ContentType,
		Value:       e.set.Value,
	}
	raw, err := encode(&p.record, len(e.set.ContentType)+len(e.set.Value))
	if err != nil {
		return err
	}
	if err := p.ns.Put(p.key, raw); err != nil {
		return err
	}
	if e.next.ExpiresAt == 0 || e.next.ExpiresAt == e.disk.ExpiresAt {
		return nil
	}
	p.ending = true
	return p.ns.Put(timeKey(prefixExpiry, e.next.ExpiresAt, e.key), nil)
}

func (p *plan) writeMark(m *markEntry) error {
	if m.disk != 0 && m.disk != m.until {
		if err := p.ns.Delete(timeKey(prefixIdempotencyTime, m.disk, m.digest[:])); err != nil {
			return err
		}
	}
	raw, err := encode(&mark{ExpiresAt: m.until}, 0)
	if err != nil {
		return err
	}
	if err := p.ns.Put(idempotencyKey(m.digest), raw); err != nil {
		return err
	}
	return p.ns.Put(timeKey(prefixIdempotencyTime, m.until, m.digest[:]), nil)
}
