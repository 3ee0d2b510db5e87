package boltengine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// dedupKey is a topic and what identifies an event in it, hashed: 128 bits keep two events of a billion apart but for
// one chance in 10^20.
type dedupKey [16]byte

func newDedupKey(topic string, key []byte) dedupKey {
	h := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(topic)))
	h.Write(length[:])
	h.Write([]byte(topic))
	h.Write(key)
	return dedupKey(h.Sum(nil)[:16])
}

// seenIDs is the index of the ids bucket: ids lie on disk in the order they came, so that writing them is cheap, and
// are looked up here.
//
// Only the file's writer touches it, one transaction at a time. What a transaction adds is staged, counts at once for
// the functions behind it in the same transaction, and joins the index when that commits.
type seenIDs struct {
	until  map[dedupKey]int64
	staged map[dedupKey]int64
	tx     *bbolt.Tx
}

func newSeenIDs() *seenIDs {
	return &seenIDs{until: map[dedupKey]int64{}, staged: map[dedupKey]int64{}}
}

func (s *seenIDs) load(ids *bbolt.Bucket) error {
	return ids.ForEach(func(k, v []byte) error {
		if len(k) != 16 || len(v) != len(dedupKey{}) {
			return fmt.Errorf("an id takes %d and %d bytes, want 16 and 16", len(k), len(v))
		}
		s.until[dedupKey(v)] = int64(binary.BigEndian.Uint64(k))
		return nil
	})
}

// join starts staging for tx, and forgets what a transaction staged that never committed.
func (s *seenIDs) join(tx *bbolt.Tx) {
	if s.tx == tx {
		return
	}
	s.tx = tx
	clear(s.staged)
	tx.OnCommit(func() {
		for k, until := range s.staged {
			s.until[k] = until
		}
		clear(s.staged)
		s.tx = nil
	})
}

// open says whether the id's window is still open. stored is false if that rests on the running transaction.
func (s *seenIDs) open(k dedupKey, now time.Time) (seen, stored bool) {
	if until, ok := s.staged[k]; ok && now.UnixNano() < until {
		return true, false
	}
	until, ok := s.until[k]
	return ok && now.UnixNano() < until, true
}

func (s *seenIDs) add(ids *bbolt.Bucket, k dedupKey, until time.Time) error {
	n, err := ids.NextSequence()
	if err != nil {
		return err
	}
	s.staged[k] = until.UnixNano()
	return ids.Put(pairKey(uint64(until.UnixNano()), n), k[:])
}

// sweep forgets at most limit ids whose window has ended.
func (s *seenIDs) sweep(tx *bbolt.Tx, ids *bbolt.Bucket, now time.Time, limit int) (removed int, err error) {
	var keys [][]byte
	var ended []dedupKey
	c := ids.Cursor()
	for k, v := c.First(); k != nil && len(keys) < limit; k, v = c.Next() {
		if int64(binary.BigEndian.Uint64(k)) > now.UnixNano() {
			break
		}
		keys = append(keys, append([]byte(nil), k...))
		ended = append(ended, dedupKey(v))
	}
	for _, k := range keys {
		if err := ids.Delete(k); err != nil {
			return 0, err
		}
	}
	tx.OnCommit(func() {
		for _, k := range ended {
			if s.until[k] <= now.UnixNano() {
				delete(s.until, k)
			}
		}
	})
	return len(keys), nil
}
