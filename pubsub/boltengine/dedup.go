package boltengine

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// dedupPlace is where in the ids bucket an event's id stands, with those that were remembered together with it.
type dedupPlace struct {
	window time.Duration
	number uint64
}

// dedupBlock is the ids that stand together in one place, as they are on disk.
type dedupBlock struct {
	dedupPlace
	ids []byte
}

// dedupChanges are what a write transaction does to the ids. What it adds counts at once for the functions behind it in
// the same transaction; the index hears of it when that commits.
type dedupChanges struct {
	added   []*dedupBlock
	until   map[pubsub.DedupHash]time.Time
	removed []dedupRemoved
}

type dedupRemoved struct {
	dedupPlace
	ids int
}

// contains reports whether the window of an event's id is still open, on disk or in the running transaction.
func (e *Engine) contains(b *buckets, hash pubsub.DedupHash, now time.Time) bool {
	return now.Before(b.dedup.until[hash]) || e.dedup.find(hash, func(at dedupPlace) bool {
		for until, stored := range eachDedupID(b.ids().Get(dedupKey(at))) {
			if stored == hash && now.UnixNano() < until {
				return true
			}
		}
		return false
	})
}

// remember adds an event's id.
func (b *buckets) remember(hash pubsub.DedupHash, window time.Duration, until time.Time) error {
	block := b.dedup.withRoom(window)
	if block == nil {
		number, err := b.ids().NextSequence()
		if err != nil {
			return err
		}
		block = &dedupBlock{dedupPlace: dedupPlace{window, number}}
		b.dedup.added = append(b.dedup.added, block)
	}
	block.ids = appendDedupID(block.ids, until, hash)
	if b.dedup.until == nil {
		b.dedup.until = map[pubsub.DedupHash]time.Time{}
	}
	b.dedup.until[hash] = until
	return nil
}

// withRoom returns the block of a window that has room for another id, or nil.
func (c *dedupChanges) withRoom(window time.Duration) *dedupBlock {
	for _, block := range slices.Backward(c.added) {
		if block.window == window {
			if len(block.ids) < dedupBlockIDs*dedupIDLen {
				return block
			}
			return nil
		}
	}
	return nil
}

// writeIDs writes the ids that were added.
func (b *buckets) writeIDs() error {
	for _, block := range b.dedup.added {
		b.ids().SetFillPercent(sequentialFill)
		if err := b.ids().Put(dedupKey(block.dedupPlace), block.ids); err != nil {
			return err
		}
	}
	return nil
}

// sweepIDs forgets ids whose window has ended: of each length of window, from the oldest on.
func (b *buckets) sweepIDs(now time.Time, step *budget) error {
	var ended [][]byte
	c := b.ids().Cursor()
	for k, v := c.First(); k != nil; {
		at, err := parseDedupKey(k)
		if err != nil {
			return err
		}
		if anyOpen(v, now) {
			// Those behind it with the same window end later, or wait for this one.
			k, v = c.Seek(dedupKey(dedupPlace{at.window + 1, 0}))
			continue
		}
		if !step.take(0) {
			break
		}
		ended = append(ended, dedupKey(at))
		b.dedup.remove(at, v)
		k, v = c.Next()
	}
	return deleteAll(b.ids(), ended)
}

func anyOpen(ids []byte, now time.Time) bool {
	for until := range eachDedupID(ids) {
		if until > now.UnixNano() {
			return true
		}
	}
	return false
}

// remove notes that ids that stand together are deleted.
func (c *dedupChanges) remove(at dedupPlace, ids []byte) {
	c.removed = append(c.removed, dedupRemoved{at, len(ids) / dedupIDLen})
}

// loadDedup builds the index of all ids, some million in a second.
func (e *Engine) loadDedup(ctx context.Context) error {
	return e.read(func(b *buckets) error {
		for k, v := range under(b.ids(), nil) {
			at, err := parseDedupKey(k)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			e.dedup.add(&dedupBlock{at, v})
		}
		return nil
	})
}

// dedupIndex says where in the ids bucket an id may stand, in some 10 bytes an id. On disk, ids lie in the order they
// came, so that writing them touches one page for each length of window, and not a random one for each id. The index may
// name a wrong place, for the caller to find out, but never misses the right one.
//
// Only the file's writer touches it.
type dedupIndex struct{ segments []*segment } // oldest first

// segment is a hash table with open addressing of ids of one window, in blocks that are numbered from base on. It goes when
// the last of them does.
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
	// offsetBits of a slot hold the block's place within the segment, plus one; the other bits are the hash's.
	offsetBits = 20
	offsetMask = 1<<offsetBits - 1
)

// commit takes in what a transaction has changed.
func (x *dedupIndex) commit(changes *dedupChanges) {
	for _, block := range changes.added {
		x.add(block)
	}
	for _, r := range changes.removed {
		x.remove(r)
	}
}

// add takes the blocks of one window in the order of their numbers.
func (x *dedupIndex) add(block *dedupBlock) {
	i, found := x.segmentOf(block.dedupPlace)
	if !found || x.segments[i].full(block) {
		x.segments = append(x.segments, &segment{window: block.window, base: block.number, slots: make([]uint64, firstSlots)})
		i = len(x.segments) - 1
	}
	for _, hash := range eachDedupID(block.ids) {
		x.segments[i].add(hash, block.number)
	}
}

// segmentOf returns the index of the segment that a block is in, or would be.
func (x *dedupIndex) segmentOf(at dedupPlace) (i int, found bool) {
	for i, s := range slices.Backward(x.segments) {
		if s.window == at.window && s.base <= at.number {
			return i, true
		}
	}
	return 0, false
}

// find calls right with each place where the id may stand, until it returns true.
func (x *dedupIndex) find(hash pubsub.DedupHash, right func(at dedupPlace) bool) bool {
	tag := tagOf(hash)
	for _, s := range slices.Backward(x.segments) {
		for at := s.home(tag); s.slots[at] != 0; at = (at + 1) % len(s.slots) {
			if s.slots[at]&^offsetMask == tag && right(dedupPlace{s.window, s.base + s.slots[at]&offsetMask - 1}) {
				return true
			}
		}
	}
	return false
}

func (x *dedupIndex) remove(r dedupRemoved) {
	i, found := x.segmentOf(r.dedupPlace)
	if !found {
		return
	}
	s := x.segments[i]
	if s.live -= r.ids; s.live <= 0 {
		x.segments = slices.Delete(x.segments, i, i+1)
	}
}

func tagOf(hash pubsub.DedupHash) uint64 { return binary.BigEndian.Uint64(hash[:8]) &^ offsetMask }

// full reports whether the segment has no place for a block that comes behind all of its own.
func (s *segment) full(block *dedupBlock) bool {
	return s.used+len(block.ids)/dedupIDLen > segmentIDs || block.number-s.base >= offsetMask
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
