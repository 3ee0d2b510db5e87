package boltdb

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"
)

// Tx is a transaction: a consistent view of the file, and in DB.Update the changes to it. It is valid until the function
// that it was given to returns. Its methods, and those of Bucket, do what bbolt's of the same names do.
type Tx struct {
	tx *bbolt.Tx
	// first is the first bucket that is asked for, which most calls do with.
	first Bucket

	// read counts the records that were asked for or walked over.
	read uint64

	// rec keeps what a write transaction changes; nil: it only reads.
	rec *recorder
	// buckets are those of a write transaction, each once.
	buckets   map[*bbolt.Bucket]*Bucket
	finishing []func() error
	committed []func()
}

// Bucket returns the bucket of that name at the top of the file, or nil if there is none.
func (tx *Tx) Bucket(name []byte) *Bucket { return tx.wrap(tx.tx.Bucket(name), nil, name) }

// CreateBucket makes a bucket at the top of the file. Its name must not be taken.
func (tx *Tx) CreateBucket(name []byte) (*Bucket, error) {
	b, err := tx.tx.CreateBucket(name)
	return tx.created(b, err, nil, name)
}

// CreateBucketIfNotExists returns the bucket of that name, new if need be.
func (tx *Tx) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	if b := tx.Bucket(name); b != nil {
		return b, nil
	}
	return tx.CreateBucket(name)
}

// ForEach calls fn for every bucket at the top of the file.
func (tx *Tx) ForEach(fn func(name []byte, b *Bucket) error) error {
	return tx.tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return fn(name, tx.wrap(b, nil, name)) })
}

// Cursor walks the names of the buckets at the top of the file.
func (tx *Tx) Cursor() Cursor { return Cursor{tx.tx.Cursor(), tx} }

// BeforeCommit makes fn run once behind all functions that share the transaction. It may write what several of them have
// changed. Its error fails them all.
func (tx *Tx) BeforeCommit(fn func() error) { tx.finishing = append(tx.finishing, fn) }

// OnCommit makes fn run once what the transaction has written is on disk, on the writer's goroutine, before anybody is
// told.
func (tx *Tx) OnCommit(fn func()) { tx.committed = append(tx.committed, fn) }

// ID returns the transaction's number, which is one more than that of the write transaction before it.
func (tx *Tx) ID() int { return tx.tx.ID() }

// wrap returns b, which has that name in parent; nil: at the top.
func (tx *Tx) wrap(b *bbolt.Bucket, parent *Bucket, name []byte) *Bucket {
	if b == nil {
		return nil
	}
	if tx.rec != nil {
		// bbolt opens each bucket of a write transaction once.
		known := tx.buckets[b]
		if known == nil {
			known = &Bucket{b: b, tx: tx, parent: parent, name: bytes.Clone(name)}
			tx.buckets[b] = known
		}
		return known
	}
	if tx.first.b == nil {
		tx.first = Bucket{b: b, tx: tx}
		return &tx.first
	}
	return &Bucket{b: b, tx: tx}
}

// created records that b was made in parent.
func (tx *Tx) created(b *bbolt.Bucket, err error, parent *Bucket, name []byte) (*Bucket, error) {
	if err != nil {
		return nil, err
	}
	in := uint64(0)
	if parent != nil {
		in = parent.number()
	}
	tx.rec.op(opCreate, in)
	tx.rec.bytes(name)
	return tx.wrap(b, parent, name), nil
}

// Bucket is a sorted map of keys to values, and to further buckets. Bytes that it returns are valid until the
// transaction ends, in a write transaction only until its next write. It does not embed bbolt's bucket: a change that is
// not recorded would be lost by a crash.
type Bucket struct {
	b  *bbolt.Bucket
	tx *Tx
	// parent and name say where it is, and id is its number in the record; 0: it has none yet.
	parent *Bucket
	name   []byte
	id     uint64
}

// Get returns the value of a key, or nil if there is none.
func (b *Bucket) Get(key []byte) []byte {
	b.tx.read++
	return b.b.Get(key)
}

// Put sets a key's value. value must stay as it is until the transaction ends.
func (b *Bucket) Put(key, value []byte) error {
	if err := b.b.Put(key, value); err != nil {
		return err
	}
	b.tx.rec.op(opPut, b.number())
	b.tx.rec.bytes(key)
	b.tx.rec.bytes(value)
	return nil
}

// Delete removes a key, if it is there.
func (b *Bucket) Delete(key []byte) error {
	if err := b.b.Delete(key); err != nil {
		return err
	}
	b.tx.rec.op(opDelete, b.number())
	b.tx.rec.bytes(key)
	return nil
}

// Sequence returns the bucket's counter.
func (b *Bucket) Sequence() uint64 { return b.b.Sequence() }

// SetSequence sets the bucket's counter.
func (b *Bucket) SetSequence(v uint64) error {
	if err := b.b.SetSequence(v); err != nil {
		return err
	}
	b.tx.rec.op(opSequence, b.number())
	b.tx.rec.b = binary.AppendUvarint(b.tx.rec.b, v)
	return nil
}

// NextSequence counts one further.
func (b *Bucket) NextSequence() (uint64, error) {
	next := b.b.Sequence() + 1
	return next, b.SetSequence(next)
}

// Bucket returns the bucket of that name in b, or nil if there is none.
func (b *Bucket) Bucket(name []byte) *Bucket { return b.tx.wrap(b.b.Bucket(name), b, name) }

// CreateBucket makes a bucket in b. Its name must not be taken.
func (b *Bucket) CreateBucket(name []byte) (*Bucket, error) {
	made, err := b.b.CreateBucket(name)
	return b.tx.created(made, err, b, name)
}

// CreateBucketIfNotExists returns the bucket of that name in b, new if need be.
func (b *Bucket) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	if known := b.Bucket(name); known != nil {
		return known, nil
	}
	return b.CreateBucket(name)
}

// ForEach calls fn for every key, in order; v is nil where the key names a bucket. fn must not change b.
func (b *Bucket) ForEach(fn func(k, v []byte) error) error { return b.b.ForEach(fn) }

// Cursor walks the keys of b in order. A write to b makes it useless.
func (b *Bucket) Cursor() Cursor { return Cursor{b.b.Cursor(), b.tx} }

// Stats reads all of b and tells how it fills its pages.
func (b *Bucket) Stats() bbolt.BucketStats { return b.b.Stats() }

// SetFillPercent chooses how full pages are when they are split, from 0 to 1, until the transaction ends: 1 suits keys
// that come in order.
func (b *Bucket) SetFillPercent(fill float64) { b.b.FillPercent = fill }

// Cursor is a place among the keys of a bucket. Its methods return the key and the value that it has moved to; the key
// is nil behind the last, the value is nil where the key names a bucket.
type Cursor struct {
	c  *bbolt.Cursor
	tx *Tx
}

// First moves to the first key.
func (c Cursor) First() (key, value []byte) {
	c.tx.read++
	return c.c.First()
}

// Next moves to the next key.
func (c Cursor) Next() (key, value []byte) {
	c.tx.read++
	return c.c.Next()
}

// Last moves to the last key. It must not be called on a bucket that the transaction has emptied: it would not come back.
func (c Cursor) Last() (key, value []byte) {
	c.tx.read++
	return c.c.Last()
}

// Prev moves to the key before.
func (c Cursor) Prev() (key, value []byte) {
	c.tx.read++
	return c.c.Prev()
}

// Seek moves to the key, or to the next one if it is not there.
func (c Cursor) Seek(key []byte) (k, value []byte) {
	c.tx.read++
	return c.c.Seek(key)
}
