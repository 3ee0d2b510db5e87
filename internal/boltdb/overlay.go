package boltdb

import (
	"bytes"
	"sync"

	"github.com/tidwall/btree"
)

// change is the last that was said of a key since a checkpoint. It does not change any more.
type change struct {
	bucket uint32 // its number in names
	what   changeKind
	// sequence is that of the record that says so.
	sequence   uint64
	key, value []byte
}

type changeKind byte

const (
	changePut changeKind = iota
	changeDelete
	// changeCreate: the key is the name of a bucket that was made.
	changeCreate
	// changeCounter is of the bucket itself, whose counter is the value. The key is empty, which no other is.
	changeCounter
)

// largeChange is from how many bytes on a change counts as one that needs pages of its own.
const largeChange = 4 << 10

// changeSize is about what a change takes in memory beside its key and its value, in bytes.
const changeSize = 160

func (c *change) size() int64 { return changeSize + int64(len(c.key)+len(c.value)) }

func changeLess(a, b *change) bool {
	if a.bucket != b.bucket {
		return a.bucket < b.bucket
	}
	return bytes.Compare(a.key, b.key) < 0
}

// overlay is what was written since the last checkpoint, in order: it lies over what the file says. One that readers may
// see does not change any more; the writer changes a copy, which shares with it what it does not touch.
type overlay struct {
	tree *btree.BTreeG[*change]
	// bytes is about what it takes in memory, and large is the part of what takes more than a page.
	bytes, large int64
}

func newOverlay() *overlay {
	return &overlay{tree: btree.NewBTreeGOptions(changeLess, btree.Options{NoLocks: true, Degree: 16})}
}

func (o *overlay) copy() *overlay { return &overlay{o.tree.Copy(), o.bytes, o.large} }

func (o *overlay) set(c *change) {
	if old, replaced := o.tree.Set(c); replaced {
		o.count(old, -1)
	}
	o.count(c, 1)
}

// has reports whether anything is said of the key of c.
func (o *overlay) has(c *change) bool {
	_, any := o.tree.Get(c)
	return any
}

func (o *overlay) remove(c *change) {
	if old, removed := o.tree.Delete(c); removed {
		o.count(old, -1)
	}
}

func (o *overlay) count(c *change, sign int64) {
	size := c.size()
	o.bytes += sign * size
	if size > largeChange {
		o.large += sign * size
	}
}

// after returns what was written after a record.
func (o *overlay) after(sequence uint64) *overlay {
	later := newOverlay()
	o.tree.Scan(func(c *change) bool {
		if c.sequence > sequence {
			later.tree.Load(c)
			later.count(c, 1)
		}
		return true
	})
	return later
}

// names numbers the buckets that were changed since the file was opened, as long as it is open. Number 0 is the top of the
// file, and a bucket's number is higher than that of the bucket it is in.
type names struct {
	mu      sync.RWMutex
	numbers map[bucketName]uint32
	list    []bucketName
}

type bucketName struct {
	parent uint32
	name   string
}

func newNames() *names { return &names{numbers: map[bucketName]uint32{}, list: make([]bucketName, 1)} }

// find returns the number of a bucket in another one, if it has one.
func (n *names) find(parent uint32, name []byte) (number uint32, known bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	number, known = n.numbers[bucketName{parent, string(name)}]
	return number, known
}

// add gives a bucket its number.
func (n *names) add(parent uint32, name []byte) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := bucketName{parent, string(name)}
	number, known := n.numbers[key]
	if !known {
		number = uint32(len(n.list))
		n.numbers[key] = number
		n.list = append(n.list, key)
	}
	return number
}

func (n *names) at(number uint32) bucketName {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.list[number]
}
