package boltdb

import (
	"go.etcd.io/bbolt"
)

// Tx is a transaction: a consistent view of the file, and in DB.Update the changes to it. It is valid until the function
// that it was given to returns. Its methods, and those of Bucket, do what bbolt's of the same names do.
type Tx struct {
	tx *bbolt.Tx
	// first is the first bucket that is asked for, which most calls do with.
	first Bucket
}

// Bucket returns the bucket of that name at the top of the file, or nil if there is none.
func (tx *Tx) Bucket(name []byte) *Bucket {
	b := tx.tx.Bucket(name)
	if b != nil && tx.first.b == nil {
		tx.first.b = b
		return &tx.first
	}
	return wrap(b)
}

// CreateBucket makes a bucket at the top of the file. Its name must not be taken.
func (tx *Tx) CreateBucket(name []byte) (*Bucket, error) { return wrapNew(tx.tx.CreateBucket(name)) }

// CreateBucketIfNotExists returns the bucket of that name, new if need be.
func (tx *Tx) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	return wrapNew(tx.tx.CreateBucketIfNotExists(name))
}

// DeleteBucket removes a bucket and all that is in it.
func (tx *Tx) DeleteBucket(name []byte) error { return tx.tx.DeleteBucket(name) }

// ForEach calls fn for every bucket at the top of the file.
func (tx *Tx) ForEach(fn func(name []byte, b *Bucket) error) error {
	return tx.tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return fn(name, wrap(b)) })
}

// Cursor walks the names of the buckets at the top of the file.
func (tx *Tx) Cursor() Cursor { return Cursor{tx.tx.Cursor()} }

// OnCommit makes fn run once the transaction has been committed, on the writer's goroutine.
func (tx *Tx) OnCommit(fn func()) { tx.tx.OnCommit(fn) }

// ID returns the transaction's number, which is one more than that of the write transaction before it.
func (tx *Tx) ID() int { return tx.tx.ID() }

// Size returns how large the file is as the transaction sees it, in bytes.
func (tx *Tx) Size() int64 { return tx.tx.Size() }

// Bucket is a sorted map of keys to values, and to further buckets. Bytes that it returns are valid until the
// transaction ends, in a write transaction only until its next write. It does not embed bbolt's bucket: whatever changes
// the file must be known here.
type Bucket struct {
	b *bbolt.Bucket
}

func wrap(b *bbolt.Bucket) *Bucket {
	if b == nil {
		return nil
	}
	return &Bucket{b}
}

func wrapNew(b *bbolt.Bucket, err error) (*Bucket, error) { return wrap(b), err }

// Get returns the value of a key, or nil if there is none.
func (b *Bucket) Get(key []byte) []byte { return b.b.Get(key) }

// Put sets a key's value. value must stay as it is until the transaction ends.
func (b *Bucket) Put(key, value []byte) error { return b.b.Put(key, value) }

// Delete removes a key, if it is there.
func (b *Bucket) Delete(key []byte) error { return b.b.Delete(key) }

// Sequence returns the bucket's counter.
func (b *Bucket) Sequence() uint64 { return b.b.Sequence() }

// SetSequence sets the bucket's counter.
func (b *Bucket) SetSequence(v uint64) error { return b.b.SetSequence(v) }

// NextSequence counts one further.
func (b *Bucket) NextSequence() (uint64, error) { return b.b.NextSequence() }

// Bucket returns the bucket of that name in b, or nil if there is none.
func (b *Bucket) Bucket(name []byte) *Bucket { return wrap(b.b.Bucket(name)) }

// CreateBucket makes a bucket in b. Its name must not be taken.
func (b *Bucket) CreateBucket(name []byte) (*Bucket, error) { return wrapNew(b.b.CreateBucket(name)) }

// CreateBucketIfNotExists returns the bucket of that name in b, new if need be.
func (b *Bucket) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	return wrapNew(b.b.CreateBucketIfNotExists(name))
}

// DeleteBucket removes a bucket of b and all that is in it.
func (b *Bucket) DeleteBucket(name []byte) error { return b.b.DeleteBucket(name) }

// ForEach calls fn for every key, in order; v is nil where the key names a bucket. fn must not change b.
func (b *Bucket) ForEach(fn func(k, v []byte) error) error { return b.b.ForEach(fn) }

// Cursor walks the keys of b in order. A write to b makes it useless.
func (b *Bucket) Cursor() Cursor { return Cursor{b.b.Cursor()} }

// Stats reads all of b and tells how it fills its pages.
func (b *Bucket) Stats() bbolt.BucketStats { return b.b.Stats() }

// SetFillPercent chooses how full pages are when they are split, from 0 to 1, until the transaction ends: 1 suits keys
// that come in order.
func (b *Bucket) SetFillPercent(fill float64) { b.b.FillPercent = fill }

// Cursor is a place among the keys of a bucket. Its methods return the key and the value that it has moved to; the key
// is nil behind the last, the value is nil where the key names a bucket.
type Cursor struct {
	c *bbolt.Cursor
}

// First moves to the first key.
func (c Cursor) First() (key, value []byte) { return c.c.First() }

// Last moves to the last key.
func (c Cursor) Last() (key, value []byte) { return c.c.Last() }

// Next moves to the next key.
func (c Cursor) Next() (key, value []byte) { return c.c.Next() }

// Prev moves to the key before.
func (c Cursor) Prev() (key, value []byte) { return c.c.Prev() }

// Seek moves to the key, or to the next one if it is not there.
func (c Cursor) Seek(key []byte) (k, value []byte) { return c.c.Seek(key) }
