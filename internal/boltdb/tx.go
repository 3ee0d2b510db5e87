package boltdb

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Tx is a transaction: a consistent view of the file, and in DB.Update the changes to it. It is valid until the function
// that it was given to returns. Its methods, and those of Bucket, do what bbolt's of the same names do.
type Tx struct {
	// top is the file's own bucket, which holds nothing but buckets.
	top Bucket
	// first is the first bucket that is asked for, which most calls do with.
	first Bucket

	// names and overlay are what lies over the file; nil: nothing does.
	names   *names
	overlay *overlay
	pivot   change // what is looked for in it

	// read counts the records that were asked for or walked over.
	read uint64

	// rec keeps what a write transaction changes; nil: it only reads.
	rec *recorder
	// sequence is that of the record.
	sequence uint64
	// frozen is what a checkpoint brings into the file; nil: nothing. What is deleted of it must be deleted from the file
	// afterwards. Without this, TestPowerFailure fails.
	frozen *overlay
	// buckets are those of a write transaction by their numbers, each once, and stored are those of the file, each with a cursor
	// that finds its keys.
	buckets map[uint32]*Bucket
	stored  map[uint32]*bbolt.Cursor
	fills   map[uint32]float64

	// counted are buckets whose counter was changed.
	counted   []*Bucket
	finishing []func() error
	committed []func()
}

// start makes tx see the file as base does, and what lies over it; nil: nothing does.
func (tx *Tx) start(base *bbolt.Tx, names *names, overlay *overlay) {
	tx.names, tx.overlay = names, overlay
	// A cursor is the only way to the bucket that all others are in.
	tx.top = Bucket{tx: tx, stored: base.Cursor().Bucket(), changed: overlay != nil && overlay.tree.Len() > 0}
}

// Bucket returns the bucket of that name at the top of the file, or nil if there is none.
func (tx *Tx) Bucket(name []byte) *Bucket { return tx.top.Bucket(name) }

// CreateBucket makes a bucket at the top of the file. Its name must not be taken.
func (tx *Tx) CreateBucket(name []byte) (*Bucket, error) { return tx.top.CreateBucket(name) }

// CreateBucketIfNotExists returns the bucket of that name, new if need be.
func (tx *Tx) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	return tx.top.CreateBucketIfNotExists(name)
}

// ForEach calls fn for every bucket at the top of the file.
func (tx *Tx) ForEach(fn func(name []byte, b *Bucket) error) error {
	return tx.top.ForEach(func(name, _ []byte) error { return fn(name, tx.Bucket(name)) })
}

// Cursor walks the names of the buckets at the top of the file.
func (tx *Tx) Cursor() *Cursor { return tx.top.Cursor() }

// BeforeCommit makes fn run once behind all functions that share the transaction. It may write what several of them have
// changed. Its error fails them all.
func (tx *Tx) BeforeCommit(fn func() error) { tx.finishing = append(tx.finishing, fn) }

// OnCommit makes fn run once what the transaction has written is on disk, on the writer's goroutine, before anybody is
// told.
func (tx *Tx) OnCommit(fn func()) { tx.committed = append(tx.committed, fn) }

// said returns the last that was said of a key since the checkpoint, or nil.
func (tx *Tx) said(bucket uint32, key []byte) *change {
	tx.pivot = change{bucket: bucket, key: key}
	c, _ := tx.overlay.tree.Get(&tx.pivot)
	return c
}

// Bucket is a sorted map of keys to values, and to further buckets; a key must not be a bucket's name. Bytes that it returns
// are valid until the transaction ends.
type Bucket struct {
	tx *Tx
	// stored is what the file has of it; nil: nothing.
	stored *bbolt.Bucket
	// finder finds keys in stored for a write transaction, without an allocation for each.
	finder *bbolt.Cursor
	// changed: the overlay may have something of it, under its number.
	changed bool
	number  uint32
	// parent and name say where it is, and id is its number in the record; 0: it has none yet.
	parent *Bucket
	name   []byte
	id     uint64
	// counter is what a write transaction has set the bucket's counter to; nil: nothing.
	counter *uint64
}

// Bucket returns the bucket of that name in b, or nil if there is none.
func (b *Bucket) Bucket(name []byte) *Bucket {
	tx := b.tx
	if tx.rec != nil {
		return b.open(name)
	}
	found := Bucket{tx: tx}
	if b.stored != nil {
		found.stored = b.stored.Bucket(name)
	}
	if b.changed {
		found.number, found.changed = tx.names.find(b.number, name)
	}
	if found.stored == nil && (!found.changed || !b.made(name)) {
		return nil
	}
	if tx.first.tx == nil {
		tx.first = found
		return &tx.first
	}
	return &found
}

// made reports whether the bucket of that name was made since the checkpoint.
func (b *Bucket) made(name []byte) bool {
	c := b.tx.said(b.number, name)
	return c != nil && c.what == changeCreate
}

// open is Bucket in a write transaction.
func (b *Bucket) open(name []byte) *Bucket {
	tx := b.tx
	number, known := tx.names.find(b.number, name)
	if known {
		if found := tx.buckets[number]; found != nil {
			return found
		}
	}
	found := &Bucket{tx: tx, changed: true, parent: b, name: bytes.Clone(name)}
	if known {
		found.finder = tx.stored[number]
	}
	if found.finder == nil && b.stored != nil {
		if stored := b.stored.Bucket(name); stored != nil {
			found.finder = stored.Cursor()
		}
	}
	if found.finder == nil && !(known && b.made(name)) {
		return nil
	}
	if !known {
		number = tx.names.add(b.number, name)
	}
	found.number = number
	if found.finder != nil {
		found.stored = found.finder.Bucket()
		tx.stored[number] = found.finder
	}
	tx.buckets[number] = found
	return found
}

// CreateBucket makes a bucket in b. Its name must not be taken.
func (b *Bucket) CreateBucket(name []byte) (*Bucket, error) {
	switch {
	case b.tx.rec == nil:
		return nil, bolterrors.ErrTxNotWritable
	case len(name) == 0:
		return nil, bolterrors.ErrBucketNameRequired
	case b.open(name) != nil:
		return nil, bolterrors.ErrBucketExists
	}
	name = bytes.Clone(name)
	b.tx.rec.op(opCreate, b.inRecord())
	b.tx.rec.bytes(name)
	b.tx.names.add(b.number, name)
	b.set(changeCreate, name, nil)
	return b.open(name), nil
}

// CreateBucketIfNotExists returns the bucket of that name in b, new if need be.
func (b *Bucket) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	if known := b.Bucket(name); known != nil {
		return known, nil
	}
	return b.CreateBucket(name)
}

func (b *Bucket) set(what changeKind, key, value []byte) {
	b.tx.overlay.set(&change{bucket: b.number, what: what, sequence: b.tx.sequence, key: key, value: value})
}

// Get returns the value of a key, or nil if there is none.
func (b *Bucket) Get(key []byte) []byte {
	b.tx.read++
	if len(key) == 0 {
		return nil
	}
	if b.changed {
		if c := b.tx.said(b.number, key); c != nil {
			return c.value
		}
	}
	return b.inFile(key)
}

// inFile returns what the file has of a key, or nil. A damaged page is a panic.
func (b *Bucket) inFile(key []byte) []byte {
	if b.stored == nil {
		return nil
	}
	if b.finder == nil {
		return b.stored.Get(key)
	}
	if k, v := b.finder.Seek(key); bytes.Equal(k, key) {
		return v
	}
	return nil
}

// MayHave reports whether b may have a key that begins with prefix: it still says so when all of them were deleted since the
// last checkpoint, which a Cursor would have to move past one by one.
func (b *Bucket) MayHave(prefix []byte) (may bool) {
	b.tx.read++
	if b.stored != nil {
		if k, _ := b.stored.Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
			return true
		}
	}
	if b.changed {
		b.tx.pivot = change{bucket: b.number, key: prefix}
		b.tx.overlay.tree.Ascend(&b.tx.pivot, func(c *change) bool {
			may = c.bucket == b.number && bytes.HasPrefix(c.key, prefix)
			return false
		})
	}
	return may
}

// Put sets a key's value.
func (b *Bucket) Put(key, value []byte) error {
	switch {
	case b.tx.rec == nil:
		return bolterrors.ErrTxNotWritable
	case len(key) == 0:
		return bolterrors.ErrKeyRequired
	case len(key) > bbolt.MaxKeySize:
		return bolterrors.ErrKeyTooLarge
	case int64(len(value)) > bbolt.MaxValueSize:
		return bolterrors.ErrValueTooLarge
	}
	// A damaged page fails whoever writes to it, and not each checkpoint from then on.
	b.inFile(key)
	b.tx.rec.op(opPut, b.inRecord())
	b.tx.rec.bytes(key)
	b.tx.rec.bytes(value)
	b.put(key, value)
	return nil
}

func (b *Bucket) put(key, value []byte) {
	kept := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	b.set(changePut, kept[:len(key):len(key)], kept[len(key):])
}

// Delete removes a key, if it is there.
func (b *Bucket) Delete(key []byte) error {
	if b.tx.rec == nil {
		return bolterrors.ErrTxNotWritable
	}
	if len(key) == 0 {
		return nil
	}
	b.tx.rec.op(opDelete, b.inRecord())
	b.tx.rec.bytes(key)
	gone := &change{bucket: b.number, what: changeDelete, sequence: b.tx.sequence, key: bytes.Clone(key)}
	if b.inFile(key) == nil && (b.tx.frozen == nil || !b.tx.frozen.has(gone)) {
		b.tx.overlay.remove(gone)
	} else {
		b.tx.overlay.set(gone)
	}
	return nil
}

// Sequence returns the bucket's counter.
func (b *Bucket) Sequence() uint64 {
	if b.counter != nil {
		return *b.counter
	}
	if b.changed {
		if c := b.tx.said(b.number, nil); c != nil {
			return binary.BigEndian.Uint64(c.value)
		}
	}
	if b.stored == nil {
		return 0
	}
	return b.stored.Sequence()
}

// SetSequence sets the bucket's counter, which is written once for a transaction.
func (b *Bucket) SetSequence(v uint64) error {
	if b.tx.rec == nil {
		return bolterrors.ErrTxNotWritable
	}
	if b.counter == nil {
		b.counter = new(uint64)
		b.tx.counted = append(b.tx.counted, b)
	}
	*b.counter = v
	return nil
}

// writeCounters writes the counters that were changed.
func (tx *Tx) writeCounters() {
	for _, b := range tx.counted {
		tx.rec.op(opSequence, b.inRecord())
		tx.rec.b = binary.AppendUvarint(tx.rec.b, *b.counter)
		b.set(changeCounter, nil, binary.BigEndian.AppendUint64(nil, *b.counter))
	}
}

// NextSequence counts one further.
func (b *Bucket) NextSequence() (uint64, error) {
	next := b.Sequence() + 1
	return next, b.SetSequence(next)
}

// SetFillPercent chooses how full pages are when the next checkpoint splits them, from 0 to 1: 1 suits keys that come in
// order.
func (b *Bucket) SetFillPercent(fill float64) { b.tx.fills[b.number] = fill }

// ForEach calls fn for every key, in order; v is nil where the key names a bucket. fn must not change b.
func (b *Bucket) ForEach(fn func(k, v []byte) error) error {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}
