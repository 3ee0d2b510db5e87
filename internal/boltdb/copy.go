package boltdb

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/bbolt"
)

// copyStep bounds the bytes that one transaction of a copy holds in memory.
const copyStep = 16 << 20

// copyData fills the empty dst with the data that src sees.
func copyData(ctx context.Context, dst *bbolt.DB, src *bbolt.Tx) (err error) {
	c := &copier{ctx: ctx, dst: dst}
	// Also when src is damaged, which is a panic: dst cannot be closed before its transaction ends.
	defer func() { err = errors.Join(err, c.end(false)) }()
	if err := src.ForEach(func(name []byte, b *bbolt.Bucket) error {
		return c.bucket([][]byte{name}, b)
	}); err != nil {
		return err
	}
	return c.end(true)
}

// copier writes in transactions of bounded size.
type copier struct {
	ctx  context.Context
	dst  *bbolt.DB
	tx   *bbolt.Tx // nil: none has begun
	size int
}

// bucket copies b, and what is in it, to path.
func (c *copier) bucket(path [][]byte, b *bbolt.Bucket) error {
	parent, name := path[:len(path)-1], path[len(path)-1]
	if err := c.write(len(name), func(tx *bbolt.Tx) error {
		create := tx.CreateBucket
		if len(parent) > 0 {
			create = bucketAt(tx, parent).CreateBucket
		}
		made, err := create(name)
		if err != nil {
			return err
		}
		return made.SetSequence(b.Sequence())
	}); err != nil {
		return err
	}
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			return c.bucket(append(slices.Clip(path), k), b.Bucket(k))
		}
		return c.write(len(k)+len(v), func(tx *bbolt.Tx) error {
			to := bucketAt(tx, path)
			to.FillPercent = 1 // keys come in order
			return to.Put(k, v)
		})
	})
}

// write runs fn, which writes size bytes, in the transaction at hand, or in a new one if that is full.
func (c *copier) write(size int, fn func(tx *bbolt.Tx) error) error {
	if c.size+size > copyStep {
		if err := c.end(true); err != nil {
			return err
		}
	}
	if c.tx == nil {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		tx, err := c.dst.Begin(true)
		if err != nil {
			return err
		}
		c.tx = tx
	}
	c.size += size
	return fn(c.tx)
}

// end commits the transaction at hand, or gives it up.
func (c *copier) end(commit bool) error {
	tx := c.tx
	c.tx, c.size = nil, 0
	switch {
	case tx == nil:
		return nil
	case commit:
		return tx.Commit()
	}
	return tx.Rollback()
}

// bucketAt returns the nested bucket that was made at path.
func bucketAt(tx *bbolt.Tx, path [][]byte) *bbolt.Bucket {
	b := tx.Bucket(path[0])
	for _, name := range path[1:] {
		b = b.Bucket(name)
	}
	return b
}
