package boltdb

import (
	"bytes"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
)

// Cursor is a place among the keys of a bucket. Its methods return the key and the value that it has moved to; the key
// is nil behind the last, the value is nil where the key names a bucket. Its bucket must not be changed while it is used, which
// goes unnoticed; others may be.
type Cursor struct {
	b *Bucket
	// stored walks what the file has, and stands at key.
	stored     *bbolt.Cursor
	key, value []byte
	// changes walks what lies over it, and stands at change; nil: behind the last.
	changes btree.IterG[*change]
	change  *change
	// ops is how much the transaction had written when changes was placed.
	ops int
}

// Cursor walks the keys of b in order.
func (b *Bucket) Cursor() *Cursor {
	c := &Cursor{b: b}
	if b.stored != nil {
		c.stored = b.stored.Cursor()
	}
	if b.changed {
		c.changes.Init(b.tx.overlay.tree, false)
	}
	return c
}

// First moves to the first key.
func (c *Cursor) First() (key, value []byte) {
	if c.stored != nil {
		c.key, c.value = c.stored.First()
	}
	return c.from(nil)
}

// Seek moves to the key, or to the next one if it is not there.
func (c *Cursor) Seek(key []byte) (k, value []byte) {
	if c.stored != nil {
		c.key, c.value = c.stored.Seek(key)
	}
	return c.from(key)
}

func (c *Cursor) from(key []byte) (k, value []byte) {
	if c.b.changed {
		c.b.tx.pivot = change{bucket: c.b.number, key: key}
		any := c.place(&c.b.tx.pivot)
		if any && len(c.changes.Item().key) == 0 && len(key) == 0 {
			any = c.changes.Next() // past the bucket's counter
		}
		c.found(any)
	}
	return c.settle(1)
}

// Next moves to the next key, from where First, Seek or Next has moved to.
func (c *Cursor) Next() (key, value []byte) {
	c.leave(1)
	return c.settle(1)
}

// Last moves to the last key.
func (c *Cursor) Last() (key, value []byte) {
	if c.stored != nil {
		c.key, c.value = c.stored.Last()
	}
	if c.b.changed {
		// The first of the next bucket lies behind it.
		c.b.tx.pivot = change{bucket: c.b.number + 1}
		if c.place(&c.b.tx.pivot) {
			c.found(c.changes.Prev())
		} else {
			c.found(c.changes.Last())
		}
	}
	return c.settle(-1)
}

// Prev moves to the key before, from where Last or Prev has moved to.
func (c *Cursor) Prev() (key, value []byte) {
	c.leave(-1)
	return c.settle(-1)
}

// place moves changes to a key, or to the next one if it is not there.
func (c *Cursor) place(at *change) bool {
	if rec := c.b.tx.rec; rec != nil {
		c.ops = rec.ops
	}
	return c.changes.Seek(at)
}

// found takes over where changes stands, if that is a key of the bucket.
func (c *Cursor) found(any bool) {
	c.change = nil
	if any {
		if found := c.changes.Item(); found.bucket == c.b.number && len(found.key) > 0 {
			c.change = found
		}
	}
}

// turn tells which of both comes first: -1 what the file has, 1 what lies over it, 0 the same key.
func (c *Cursor) turn(direction int) int {
	switch {
	case c.change == nil:
		return -1
	case c.key == nil:
		return 1
	}
	return direction * bytes.Compare(c.key, c.change.key)
}

// leave moves on from the key that was returned last.
func (c *Cursor) leave(direction int) {
	turn := c.turn(direction)
	if turn <= 0 && c.key != nil {
		if direction > 0 {
			c.key, c.value = c.stored.Next()
		} else {
			c.key, c.value = c.stored.Prev()
		}
	}
	if turn < 0 || c.change == nil {
		return
	}
	if rec := c.b.tx.rec; rec != nil && rec.ops != c.ops {
		c.place(c.change) // a write to another bucket has spoilt the iterator
	}
	if direction > 0 {
		c.found(c.changes.Next())
	} else {
		c.found(c.changes.Prev())
	}
}

// settle moves past keys that were deleted, and returns the one that comes first.
func (c *Cursor) settle(direction int) (key, value []byte) {
	c.b.tx.read++
	for {
		turn := c.turn(direction)
		if turn < 0 {
			return c.key, c.value
		}
		if c.change.what != changeDelete {
			return c.change.key, c.change.value
		}
		c.leave(direction)
	}
}
