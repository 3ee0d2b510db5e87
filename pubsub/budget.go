package pubsub

import (
	"sync"
	"sync/atomic"
)

// DefaultPendingBytes is the limit of a Budget that names none.
const DefaultPendingBytes = 128 << 20

// Budget bounds the events, in bytes, that all brokers which share it keep in memory: those in hand of the streams and
// those that were read ahead for them. What does not fit stays on disk until there is room.
//
// A stream that has nothing in hand gets one event whatever the others hold, so that nobody starves behind a reader that
// does not read. So the most that is held is the limit, one event for each stream, and for each group of a topic that
// has streams at most two more, a retry and a redriven event, whose turn has not come.
type Budget struct {
	limit int64
	used  atomic.Int64

	// refused counts what is in waiting.
	refused atomic.Int32
	mu      sync.Mutex
	// waiting are the queues that had no room to read, in the order they were refused.
	waiting []*queue
}

// NewBudget returns a Budget of that many bytes; zero: DefaultPendingBytes.
func NewBudget(limit int64) *Budget {
	if limit == 0 {
		limit = DefaultPendingBytes
	}
	return &Budget{limit: limit}
}

// Used returns the bytes that are held now.
func (b *Budget) Used() int64 { return b.used.Load() }

// take reserves n bytes if there is room for them.
func (b *Budget) take(n int) bool {
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.free(n)
	return false
}

// exceed takes n bytes whether or not there is room.
func (b *Budget) exceed(n int) { b.used.Add(int64(n)) }

// free gives n bytes back, and lets a queue that waits for room have them.
func (b *Budget) free(n int) {
	b.used.Add(-int64(n))
	b.passOn()
}

// passOn wakes the first of the queues that wait, if there is room. Whoever is woken passes on in turn what it leaves
// over: however many wait, they are not all woken for room that one of them will take.
func (b *Budget) passOn() {
	if b.refused.Load() == 0 || b.used.Load()+readAheadBytes > b.limit {
		return
	}
	b.mu.Lock()
	if len(b.waiting) > 0 {
		first := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.refused.Add(-1)
		first.waits = false
		signal(first.wake)
	}
	b.mu.Unlock()
}

// wait has q woken once there is room.
func (b *Budget) wait(q *queue) {
	b.mu.Lock()
	if !q.waits {
		q.waits = true
		b.waiting = append(b.waiting, q)
		b.refused.Add(1)
	}
	b.mu.Unlock()
	// What was freed since q was refused has woken nobody.
	b.passOn()
}

// leave is for a queue that ends: it waits no more, and what woke it goes to the next.
func (b *Budget) leave(q *queue) {
	b.mu.Lock()
	for i, other := range b.waiting {
		if other == q {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.refused.Add(-1)
			q.waits = false
			break
		}
	}
	b.mu.Unlock()
	b.passOn()
}
