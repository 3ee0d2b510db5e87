package pubsub

import (
	"slices"
	"sync"
	"sync/atomic"
)

// DefaultPendingBytes is the limit of a Budget that names none.
const DefaultPendingBytes = 128 << 20

// Budget bounds the events, in bytes, that all brokers which share it keep in memory: those in flight and
// those that were read ahead for them. What does not fit stays on disk until there is room.
//
// A stream that has nothing in flight gets one event whatever the others hold, so that nobody starves behind a reader that
// does not read. So the most that is held is the limit, one event for each stream, and for each group of a topic that
// has streams at most two more, a retry and a redriven event, whose turn has not come.
type Budget struct {
	limit int64
	used  atomic.Int64

	// refused counts what is in waiting.
	refused atomic.Int32
	mu      sync.Mutex
	// waiting are those who had no room to read, in the order they were refused, each by the channel that wakes it.
	waiting []chan struct{}
	waits   map[chan struct{}]bool
}

// NewBudget returns a Budget of that many bytes; zero: DefaultPendingBytes.
func NewBudget(limit int64) *Budget {
	if limit == 0 {
		limit = DefaultPendingBytes
	}
	return &Budget{limit: limit, waits: map[chan struct{}]bool{}}
}

// Used returns the bytes that are held now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit returns the bytes that may be held.
func (b *Budget) Limit() int64 { return b.limit }

// take reserves n bytes if there is room for them.
func (b *Budget) take(n int) bool {
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.Free(n)
	return false
}

// IsFull reports whether there is no room.
func (b *Budget) IsFull() bool { return b.used.Load() >= b.limit }

// Exceed takes n bytes whether or not there is room.
func (b *Budget) Exceed(n int) { b.used.Add(int64(n)) }

// Free gives n bytes back, and lets who waits for room have them.
func (b *Budget) Free(n int) {
	b.used.Add(-int64(n))
	b.passOn()
}

// passOn wakes the first of those who wait, if there is room. Who is woken passes on in turn what it leaves over:
// however many wait, they are not all woken for room that one of them will take.
func (b *Budget) passOn() {
	if b.refused.Load() == 0 || b.used.Load()+readAheadBytes > b.limit {
		return
	}
	b.mu.Lock()
	if len(b.waiting) > 0 {
		first := b.waiting[0]
		b.forget(first)
		signal(first)
	}
	b.mu.Unlock()
}

// wait sends to wake once there is room.
func (b *Budget) wait(wake chan struct{}) {
	b.mu.Lock()
	if !b.waits[wake] {
		b.waits[wake] = true
		b.waiting = append(b.waiting, wake)
		b.refused.Add(1)
	}
	b.mu.Unlock()
	// What was freed since then has woken nobody.
	b.passOn()
}

// leave is for who waits no more, and may have been woken: then the next is.
func (b *Budget) leave(wake chan struct{}) {
	b.mu.Lock()
	b.forget(wake)
	b.mu.Unlock()
	b.passOn()
}

func (b *Budget) forget(wake chan struct{}) {
	if b.waits[wake] {
		delete(b.waits, wake)
		b.waiting = slices.DeleteFunc(b.waiting, func(other chan struct{}) bool { return other == wake })
		b.refused.Add(-1)
	}
}
