package boltengine

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// dedupID is where in the ids bucket an event's id stands.
type dedupID struct {
	window time.Duration
	number uint64
}

// dedupChanges are what a write transaction does to the ids. What it adds counts at once for the functions behind it in
// the same transaction; the index hears of it when that commits.
type dedupChanges struct {
	added   []addedID
	until   map[pubsub.DedupHash]time.Time
	removed []dedupID
}

type addedID struct {
	dedupID
	hash pubsub.DedupHash
}

// contains reports whether the window of an event's id is still open, on disk or in the running transaction.
func (e *Engine) contains(b *buckets, hash pubsub.DedupHash, now time.Time) bool {
	return now.Before(b.dedup.until[hash]) || e.dedup.find(hash, func(id dedupID) bool {
		until, stored, ok := parseDedupValue(b.ids().Get(dedupKey(id)))
		return ok && stored == hash && now.UnixNano() < until
	})
}

// remember adds an event's id.
func (b *buckets) remember(hash pubsub.DedupHash, window time.Duration, now time.Time) error {
	return b.rememberUntil(hash, window, now.Add(window))
}

func (b *buckets) rememberUntil(hash pubsub.DedupHash, window time.Duration, until time.Time) error {
	number, err := b.ids().NextSequence()
	if err != nil {
		return err
	}
	id := dedupID{window, number}
	b.dedup.added = append(b.dedup.added, addedID{id, hash})
	if b.dedup.until == nil {
		b.dedup.until = map[pubsub.DedupHash]time.Time{}
	}
	b.dedup.until[hash] = until
	b.ids().SetFillPercent(sequentialFill)
	return b.ids().Put(dedupKey(id), dedupValue(until, hash))
}

// sweepIDs forgets ids whose window has ended: of each length of window, from the oldest on.
func (b *buckets) sweepIDs(now time.Time, step *budget) error {
	var ended [][]byte
	c := b.ids().Cursor()
	for k, v := c.First(); k != nil; {
		id, err := parseDedupKey(k)
		if err != nil {
			return err
		}
		until, _, ok := parseDedupValue(v)
		if ok && until > now.UnixNano() {
			// Those behind it with the same window end later.
			k, v = c.Seek(dedupKey(dedupID{id.window + 1, 0}))
			continue
		}
		if !step.take(0) {
			break
		}
		ended = append(ended, dedupKey(id))
		if ok {
			b.dedup.removed = append(b.dedup.removed, id)
		}
		k, v = c.Next()
	}
	return deleteAll(b.ids(), ended)
}

// loadDedup builds the index of all ids, some million in a second.
func (e *Engine) loadDedup(ctx context.Context) error {
	return e.read(func(b *buckets) error {
		c := b.ids().Cursor()
		for k, v := c.First(); k != nil && ctx.Err() == nil; k, v = c.Next() {
			id, err := parseDedupKey(k)
			if err != nil {
				return err
			}
			if _, hash, ok := parseDedupValue(v); ok {
				e.dedup.add(id, hash)
			}
		}
		return ctx.Err()
	})
}

// dedupIndex says where in the ids bucket an id may stand, in some 10 bytes an id. On disk, ids lie in the order they
// came, so that writing them touches one page for each length of window, and not a random one for each id. The index may
// name a wrong place, for the caller to find out, but never misses the right one.
//
// Only the file's writer touches it.
type dedupIndex struct{ segments []*segment } // oldest first

// segment is a hash table with open addressing of the ids of one window that are numbered from base on. It goes when the
// last of them does.
type segment struct {
	window     time.Duration
	base       uint64
	used, live int
	slots      []uint64
}

const (
	// segmentSlots is the size to which a segment grows.
	segmentSlots = 1 << 20
	segmentIDs   = segmentSlots / 8 * 7
	firstSlots   = 1 << 10
	// offsetBits of a slot hold the place within the segment, plus one; the other bits are the hash's.
	offsetBits = 20
	offsetMask = 1<<offsetBits - 1
)

// commit takes in what a transaction has changed.
func (x *dedupIndex) commit(changes *dedupChanges) {
	for _, a := range changes.added {
		x.add(a.dedupID, a.hash)
	}
	for _, id := range changes.removed {
		x.remove(id)
	}
}

// add takes the ids of one window in the order of their numbers.
func (x *dedupIndex) add(id dedupID, hash pubsub.DedupHash) {
	for _, s := range slices.Backward(x.segments) {
		if s.holds(id) {
			s.add(hash, id.number)
			return
		}
	}
	s := &segment{window: id.window, base: id.number, slots: make([]uint64, firstSlots)}
	s.add(hash, id.number)
	x.segments = append(x.segments, s)
}

// find calls right with each place where the id may stand, until it returns true.
func (x *dedupIndex) find(hash pubsub.DedupHash, right func(id dedupID) bool) bool {
	tag := tagOf(hash)
	for _, s := range slices.Backward(x.segments) {
		for at := s.home(tag); s.slots[at] != 0; at = (at + 1) % len(s.slots) {
			if s.slots[at]&^offsetMask == tag && right(dedupID{s.window, s.base + s.slots[at]&offsetMask - 1}) {
				return true
			}
		}
	}
	return false
}

func (x *dedupIndex) remove(id dedupID) {
	for i, s := range x.segments {
		if !s.holds(id) {
			continue
		}
		if s.live--; s.live == 0 {
			x.segments = slices.Delete(x.segments, i, i+1)
		}
		return
	}
}

func tagOf(hash pubsub.DedupHash) uint64 { return binary.BigEndian.Uint64(hash[:8]) &^ offsetMask }

func (s *segment) holds(id dedupID) bool {
	return s.window == id.window && id.number >= s.base && id.number-s.base < segmentIDs
}

func (s *segment) add(hash pubsub.DedupHash, number uint64) {
	if s.used >= len(s.slots)/8*7 {
		old := s.slots
		s.slots = make([]uint64, 2*len(old))
		for _, slot := range old {
			if slot != 0 {
				s.put(slot)
			}
		}
	}
	s.put(tagOf(hash) | (number - s.base + 1))
	s.used++
	s.live++
}

func (s *segment) home(tag uint64) int { return int((tag >> offsetBits) % uint64(len(s.slots))) }

func (s *segment) put(slot uint64) {
	at := s.home(slot &^ offsetMask)
	for s.slots[at] != 0 {
		at = (at + 1) % len(s.slots)
	}
	s.slots[at] = slot
}
