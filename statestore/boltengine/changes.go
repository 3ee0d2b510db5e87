package boltengine

import (
	"bytes"
	"slices"
)

// changes are keys of a bucket to put and to delete. They are listed first and written last: what bbolt returned does not
// outlive a transaction's first write, and in any other order than that of the keys, each of many writes would move all
// that were made before it on the same page.
type changes []change

// change is a key's new value; nil: the key is deleted. The bytes are the change's own.
type change struct{ k, v []byte }

func (c *changes) put(k, v []byte) {
	if v == nil {
		v = []byte{}
	}
	*c = append(*c, change{k, v})
}

func (c *changes) delete(k []byte) { *c = append(*c, change{k: k}) }

// write sorts the changes and makes them.
func (c changes) write(b bucket) error {
	slices.SortFunc(c, func(a, b change) int { return bytes.Compare(a.k, b.k) })
	for i := range c {
		var err error
		if c[i].v == nil {
			err = b.Delete(c[i].k)
		} else {
			err = b.Put(c[i].k, c[i].v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
