package boltengine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
)

// dedupKey is a topic and what identifies an event in it, hashed: with 128 bits, two events of a billion share one with
// a chance of 1 in 10^20.
type dedupKey [16]byte

func newDedupKey(topic string, key []byte) dedupKey {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 128), uint64(len(topic)))
	b = append(append(b, topic...), key...)
	sum := sha256.Sum256(b)
	return dedupKey(sum[:len(dedupKey{})])
}

// seenIDs knows the ids bucket. On disk, ids lie in the order they came, so that writing them touches one page and not
// a random one each; here stands in which place to look for an id. What is found is always judged by the bucket.
//
// Only the file's writer touches it, one transaction at a time. What a transaction adds is staged, counts at once for
// the functions behind it in the same transaction, and is placed when that commits.
type seenIDs struct {
	places places
	staged map[dedupKey]stagedID
	tx     *boltdb.Tx
}

type stagedID struct{ number, until uint64 }

const seenValueLen = 8 + len(dedupKey{})

// loadChunk is how many ids are read in one transaction at open.
const loadChunk = 100_000

// fetchers read ahead of loadSeen at the same time, each of them idsFetched ids at a time: fewer than a page holds.
const (
	fetchers   = 16
	idsFetched = 64
)

// loadSeen finds the places of all ids, some million in a second.
func (e *Engine) loadSeen(ctx context.Context) error {
	e.seen.staged = map[dedupKey]stagedID{}
	for next := uint64(0); ; {
		if err := e.fetchIDs(next); err != nil {
			return err
		}
		n := 0
		err := e.read(func(b *buckets) error {
			c := b.ids().Cursor()
			for k, v := c.Seek(idNumberKey(next)); k != nil && n < loadChunk; k, v = c.Next() {
				if len(k) != 8 || len(v) != seenValueLen {
					return fmt.Errorf("an id takes %d and %d bytes, want 8 and %d", len(k), len(v), seenValueLen)
				}
				number := binary.BigEndian.Uint64(k)
				e.seen.places.add(dedupKey(v[8:]), number)
				next = number + 1
				n++
			}
			return ctx.Err()
		})
		if err != nil || n < loadChunk {
			return err
		}
		e.db.BoundResident()
	}
}

// fetchIDs brings the pages of the next loadChunk ids into the system's cache. One after the other, a disk is slow to give
// pages that lie far apart.
func (e *Engine) fetchIDs(first uint64) error {
	errs := make([]error, fetchers)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = e.read(func(b *buckets) error {
				c := b.ids().Cursor()
				const share = loadChunk / fetchers
				for n := range uint64(share / idsFetched) {
					if k, _ := c.Seek(idNumberKey(first + uint64(i)*share + n*idsFetched)); k == nil {
						return nil
					}
				}
				return nil
			})
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// join starts staging for tx, and forgets what a transaction staged that never committed.
func (s *seenIDs) join(tx *boltdb.Tx) {
	if s.tx == tx {
		return
	}
	s.tx = tx
	clear(s.staged)
	tx.OnCommit(func() {
		for k, staged := range s.staged {
			s.places.add(k, staged.number)
		}
		clear(s.staged)
		s.tx = nil
	})
}

// open says whether the id's window is still open. stored is false if that rests on the running transaction.
func (s *seenIDs) open(ids *boltdb.Bucket, k dedupKey, now time.Time) (seen, stored bool) {
	if staged, ok := s.staged[k]; ok && uint64(now.UnixNano()) < staged.until {
		return true, false
	}
	return s.places.find(k, func(number uint64) bool {
		v := ids.Get(idNumberKey(number))
		return len(v) == seenValueLen && dedupKey(v[8:]) == k && uint64(now.UnixNano()) < binary.BigEndian.Uint64(v)
	}), true
}

func (s *seenIDs) add(ids *boltdb.Bucket, k dedupKey, until time.Time) error {
	n, err := ids.NextSequence()
	if err != nil {
		return err
	}
	s.staged[k] = stagedID{n, uint64(until.UnixNano())}
	v := binary.BigEndian.AppendUint64(make([]byte, 0, seenValueLen), uint64(until.UnixNano()))
	ids.SetFillPercent(sequentialFill)
	return ids.Put(idNumberKey(n), append(v, k[:]...))
}

// sweep forgets at most limit ids from the oldest on, up to one whose window is still open. Where publishers use
// windows of different lengths, a short one takes its place until the longer ones before it have ended.
func (s *seenIDs) sweep(tx *boltdb.Tx, ids *boltdb.Bucket, now time.Time, limit int) (removed int, err error) {
	var ended [][]byte
	c := ids.Cursor()
	for k, v := c.First(); k != nil && len(ended) < limit; k, v = c.Next() {
		if len(v) == seenValueLen && binary.BigEndian.Uint64(v) > uint64(now.UnixNano()) {
			break
		}
		ended = append(ended, append([]byte(nil), k...))
	}
	if len(ended) == 0 {
		return 0, nil
	}
	for _, k := range ended {
		if err := ids.Delete(k); err != nil {
			return 0, err
		}
	}
	newest := binary.BigEndian.Uint64(ended[len(ended)-1])
	tx.OnCommit(func() { s.places.dropThrough(newest) })
	return len(ended), nil
}

func idNumberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), n) }

const (
	// segmentSlots is the size to which a segment of places grows; a segment is dropped as a whole when its last id is.
	segmentSlots = 1 << 20
	segmentIDs   = segmentSlots / 8 * 7
	firstSlots   = 1 << 10
	// offsetBits of a slot hold the place within the segment, plus one; the other bits are the id's.
	offsetBits = 20
	offsetMask = 1<<offsetBits - 1
)

// places maps ids to their numbers in the ids bucket, in some 10 bytes an id. It may name a wrong number, for the caller
// to find out, but never misses the right one.
type places struct{ segments []*segment } // oldest first

// segment is a hash table with open addressing of the ids numbered from base on.
type segment struct {
	base  uint64
	count int
	slots []uint64
}

func (p *places) add(k dedupKey, number uint64) {
	n := len(p.segments)
	if n == 0 || number-p.segments[n-1].base >= segmentIDs {
		p.segments = append(p.segments, &segment{base: number, slots: make([]uint64, firstSlots)})
		n++
	}
	p.segments[n-1].add(k, number)
}

// find calls right with each number that may be the id's, newest first, until it returns true.
func (p *places) find(k dedupKey, right func(number uint64) bool) bool {
	for i := len(p.segments) - 1; i >= 0; i-- {
		s := p.segments[i]
		tag := tagOf(k)
		for at := s.home(tag); s.slots[at] != 0; at = (at + 1) % len(s.slots) {
			if s.slots[at]&^offsetMask == tag && right(s.base+s.slots[at]&offsetMask-1) {
				return true
			}
		}
	}
	return false
}

// dropThrough forgets the segments that hold no number above the given one.
func (p *places) dropThrough(number uint64) {
	for len(p.segments) > 0 && p.segments[0].base+segmentIDs-1 <= number {
		p.segments = p.segments[1:]
	}
}

func tagOf(k dedupKey) uint64 { return binary.BigEndian.Uint64(k[:8]) &^ offsetMask }

func (s *segment) home(tag uint64) int { return int((tag >> offsetBits) % uint64(len(s.slots))) }

func (s *segment) add(k dedupKey, number uint64) {
	if s.count >= len(s.slots)/8*7 {
		old := s.slots
		s.slots = make([]uint64, 2*len(old))
		for _, slot := range old {
			if slot != 0 {
				s.put(slot)
			}
		}
	}
	s.put(tagOf(k) | (number - s.base + 1))
	s.count++
}

func (s *segment) put(slot uint64) {
	at := s.home(slot &^ offsetMask)
	for s.slots[at] != 0 {
		at = (at + 1) % len(s.slots)
	}
	s.slots[at] = slot
}
