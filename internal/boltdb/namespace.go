package boltdb

import (
	"bytes"
	"slices"

	"go.etcd.io/bbolt"
)

// The kinds of namespaces.
const (
	KindState  = "state"
	KindPubSub = "pubsub"
)

var kinds = []string{KindState, KindPubSub}

// Namespace is a bucket that users name, of one kind of data. It lies at the top of the file, as kind/name: each level of
// buckets above what is written is one more page that every commit writes.
//
// Files of format 1 have a bucket for each kind instead, with the namespaces in it. Those stay there, and work as they
// did, until the file is compacted.
type Namespace struct{ kind, name, top []byte }

// MaxNamespaceName is how many bytes a namespace's name may take.
const MaxNamespaceName = bbolt.MaxKeySize - len(KindPubSub+"/")

// NewNamespace names a namespace.
func NewNamespace(kind, name string) Namespace {
	return Namespace{kind: []byte(kind), name: []byte(name), top: []byte(kind + "/" + name)}
}

// Name is what users call it.
func (n *Namespace) Name() string { return string(n.name) }

// In returns the namespace's bucket as tx sees it, or nil if there is none.
func (n *Namespace) In(tx *bbolt.Tx) *bbolt.Bucket {
	if b := tx.Bucket(n.top); b != nil {
		return b
	}
	if nested := tx.Bucket(n.kind); nested != nil {
		return nested.Bucket(n.name)
	}
	return nil
}

// Create returns the namespace's bucket, new if need be.
func (n *Namespace) Create(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	if b := n.In(tx); b != nil {
		return b, nil
	}
	return tx.CreateBucket(n.top)
}

// Namespaces returns the names of a kind's namespaces.
func (db *DB) Namespaces(kind string) (names []string, err error) {
	prefix := NewNamespace(kind, "").top
	err = db.View(func(tx *bbolt.Tx) error {
		c := tx.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			names = append(names, string(k[len(prefix):]))
		}
		names = append(names, nested(tx, kind)...)
		return nil
	})
	return names, err
}

func nested(tx *bbolt.Tx, kind string) (names []string) {
	b := tx.Bucket([]byte(kind))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		names = append(names, string(k))
	}
	return names
}

// EachTop calls fn for every bucket that holds data, with the name that it has at the top of a file of the present
// format, in no order.
func EachTop(tx *bbolt.Tx, fn func(name []byte, b *bbolt.Bucket) error) error {
	for _, kind := range kinds {
		for _, name := range nested(tx, kind) {
			n := NewNamespace(kind, name)
			if err := fn(n.top, n.In(tx)); err != nil {
				return err
			}
		}
	}
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if slices.Contains(kinds, string(name)) || IsSpare(name) {
			return nil
		}
		return fn(name, b)
	})
}
