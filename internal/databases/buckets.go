package databases

import (
	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
)

// topLevelPubSub holds one nested bucket for each namespace of topics.
var topLevelPubSub = []byte("pubsub")

// pubsubBuckets lists the namespaces of topics that db holds.
func pubsubBuckets(db *boltdb.DB) ([]string, error) {
	var names []string
	err := db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(topLevelPubSub)
		if b == nil {
			return nil
		}
		return b.ForEachBucket(func(name []byte) error {
			names = append(names, string(name))
			return nil
		})
	})
	return names, err
}
