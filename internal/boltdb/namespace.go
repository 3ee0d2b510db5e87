package boltdb

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// The kinds of namespaces.
const (
	KindState  = "state"
	KindPubSub = "pubsub"
)

// Namespace is a bucket that users name, of one kind of data. It lies at the top of the file, as kind/name: each level of
// buckets above what is written is one more page that every commit writes.
type Namespace struct{ name, top []byte }

// MaxNamespaceName is how many bytes a namespace's name may take.
const MaxNamespaceName = bbolt.MaxKeySize - len(KindPubSub+"/")

// NewNamespace names a namespace.
func NewNamespace(kind, name string) Namespace {
	return Namespace{name: []byte(name), top: []byte(kind + "/" + name)}
}

// Name is what users call it.
func (n *Namespace) Name() string { return string(n.name) }

// In returns the namespace's bucket as tx sees it, or nil if there is none.
func (n *Namespace) In(tx *Tx) *Bucket { return tx.Bucket(n.top) }

// Create returns the namespace's bucket, new if need be.
func (n *Namespace) Create(tx *Tx) (*Bucket, error) { return tx.CreateBucketIfNotExists(n.top) }

// Namespaces returns the names of a kind's namespaces.
func (db *DB) Namespaces(kind string) (names []string, err error) {
	prefix := NewNamespace(kind, "").top
	err = db.View(func(tx *Tx) error {
		c := tx.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			names = append(names, string(k[len(prefix):]))
		}
		return nil
	})
	return names, err
}
