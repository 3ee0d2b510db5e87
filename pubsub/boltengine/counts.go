package boltengine

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
)

// counted is something of which the engine knows the number, so that nobody has to walk what may be millions of records.
type counted struct {
	kind countKind
	// id is a topic's number, or a group's.
	id uint32
	// of is whose the dead letters are.
	of groupName
}

type countKind uint8

const (
	countTopics countKind = iota
	countDelayed
	countDone
	countRetrying
	countRedriven
	countDead
)

func allTopics() counted             { return counted{kind: countTopics} }
func delayedOf(topic uint32) counted { return counted{kind: countDelayed, id: topic} }
func doneOf(group uint32) counted    { return counted{kind: countDone, id: group} }
func deadOf(topic, group string) counted {
	return counted{kind: countDead, of: groupName{topic, group}}
}

func retriesOf(group uint32, redriven bool) counted {
	if redriven {
		return counted{kind: countRedriven, id: group}
	}
	return counted{kind: countRetrying, id: group}
}

// tally is kept in memory, and counted once when the engine is opened.
type tally struct {
	mu sync.Mutex
	n  map[counted]int64
}

// get returns a number, which may be ahead of a reader's snapshot.
func (c *tally) get(of counted) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(max(c.n[of], 0))
}

// commit takes in what a transaction has changed.
func (c *tally) commit(changes map[counted]int64) {
	if len(changes) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for of, n := range changes {
		if c.n[of] += n; c.n[of] == 0 {
			delete(c.n, of)
		}
	}
}

// count notes by how much a write transaction changes a number.
func (b *buckets) count(of counted, n int) {
	if n == 0 {
		return
	}
	if b.counted == nil {
		b.counted = map[counted]int64{}
	}
	b.counted[of] += int64(n)
}

func (b *buckets) countDelayed(key []byte, n int) {
	if _, topic, err := parseDelayedKey(key); err == nil {
		b.count(delayedOf(topic), n)
	}
}

func (b *buckets) countDead(record []byte, n int) {
	r := decodeDeadHead(record)
	b.count(deadOf(r.Topic, r.Group), n)
}

// countNow returns a number as the write transaction has left it so far.
func (e *Engine) countNow(b *buckets, of counted) uint64 {
	return uint64(max(int64(e.counts.get(of))+b.counted[of], 0))
}

// loadCounts counts what is there, some million records in a second.
func (e *Engine) loadCounts(ctx context.Context) error {
	return e.read(func(b *buckets) error {
		each := func(from *boltdb.Bucket, fn func(k, v []byte)) {
			for k, v := range under(from, nil) {
				if ctx.Err() != nil {
					return
				}
				fn(k, v)
			}
		}
		each(b.topics(), func(_, _ []byte) { b.count(allTopics(), 1) })
		each(b.delayed(), func(k, _ []byte) { b.countDelayed(k, 1) })
		each(b.done(), func(k, _ []byte) { b.count(doneOf(binary.BigEndian.Uint32(k)), 1) })
		each(b.retry(), func(k, _ []byte) {
			if group, key, err := parseRetryKey(k); err == nil {
				b.count(retriesOf(group, key.Redriven), 1)
			}
		})
		each(b.dead(), func(_, v []byte) { b.countDead(v, 1) })
		e.counts.n = map[counted]int64{}
		e.counts.commit(b.counted)
		return ctx.Err()
	})
}
