package crash

import "sync"

// keyBook knows of every key which versions were acknowledged, and which may have taken effect.
type keyBook struct {
	found *findings

	mu   sync.Mutex
	keys map[string]*span
	// twins are pairs of keys that are only ever written together.
	twins [][2]string
	// writes and refused count calls.
	writes, refused int
	// counters have the values that were acknowledged, which no second call may be.
	counters map[string]*counter
}

// span are the versions of a key that it may be in: each was tried, and none is older than what somebody was told.
type span struct {
	known, tried int
	// failed are versions that were answered with an error.
	failed map[int]bool
}

// counter is a key that several clients increment by ETag.
type counter struct {
	reached map[int]bool
	highest int
	// tried counts the increments that were sent.
	tried int
}

func newKeyBook(found *findings) *keyBook {
	return &keyBook{found: found, keys: make(map[string]*span), counters: make(map[string]*counter)}
}

func (b *keyBook) span(key string) *span {
	s := b.keys[key]
	if s == nil {
		s = &span{}
		b.keys[key] = s
	}
	return s
}

// try hands out the next version of keys that are written together.
func (b *keyBook) try(keys ...string) (version int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	version = b.span(keys[0]).tried + 1
	if len(keys) == 2 && version == 1 {
		b.twins = append(b.twins, [2]string(keys))
	}
	for _, key := range keys {
		b.span(key).tried = version
	}
	return version
}

func (b *keyBook) acknowledged(version int, keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	for _, key := range keys {
		s := b.span(key)
		s.known = max(s.known, version)
	}
}

// failedToWrite notes a version that was answered with an error.
func (b *keyBook) failedToWrite(version int, keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		s := b.span(key)
		if s.failed == nil {
			s.failed = make(map[int]bool)
		}
		s.failed[version] = true
	}
}

func (b *keyBook) refusedOne() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
}

// read judges a value that was read: from here on the key may be in no older version. nil: the key was absent.
func (b *keyBook) read(key string, value []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.span(key)
	if value == nil {
		// It may be in any of its versions that are absent; the oldest is the one that binds least.
		oldest := (s.known + deleteEvery - 1) / deleteEvery * deleteEvery
		if oldest > s.tried {
			b.found.add(LostWrite, "%s: version %d was acknowledged, %d tried; it is absent", key, s.known, s.tried)
			return
		}
		s.known = max(s.known, oldest)
		return
	}
	n, whole := numberOf(key, value)
	switch {
	case !whole:
		b.found.add(ChangedBytes, "%s: %d bytes that say version %d", key, len(value), n)
	case n > s.tried:
		b.found.add(Invented, "%s: version %d, while %d was the last that was tried", key, n, s.tried)
	case s.failed[n]:
		b.found.add(Undead, "%s: version %d", key, n)
	case n < s.known:
		b.found.add(LostWrite, "%s: version %d was acknowledged, %d is stored", key, s.known, n)
	default:
		s.known = n
	}
}

// incremented judges an increment that was acknowledged.
func (b *keyBook) incremented(key string, to int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	c := b.counter(key)
	if c.reached[to] {
		b.found.add(LostUpdate, "%s: two increments to %d were acknowledged", key, to)
	}
	c.reached[to] = true
	c.highest = max(c.highest, to)
}

// counting notes an increment before it is sent.
func (b *keyBook) counting(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counter(key).tried++
}

// counted judges the value of a counter that was read when it had reached knownBefore for sure.
func (b *keyBook) counted(key string, value, knownBefore int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if value < knownBefore {
		b.found.add(LostWrite, "%s: %d was acknowledged, %d is stored", key, knownBefore, value)
	}
	if tried := b.counter(key).tried; value > tried {
		b.found.add(Invented, "%s: %d, while %d increments were tried", key, value, tried)
	}
}

// highest returns the highest value that was acknowledged by now.
func (b *keyBook) highest(key string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counter(key).highest
}

func (b *keyBook) counter(key string) *counter {
	c := b.counters[key]
	if c == nil {
		c = &counter{reached: make(map[int]bool)}
		b.counters[key] = c
	}
	return c
}

// final judges everything that is stored at the end; a key that is not in stored is absent.
func (b *keyBook) final(stored map[string][]byte) {
	for key := range b.keys {
		b.read(key, stored[key])
	}
	for _, pair := range b.twins {
		left, right := stored[pair[0]], stored[pair[1]]
		l, _ := numberOf(pair[0], left)
		r, _ := numberOf(pair[1], right)
		if l != r {
			b.found.add(TornTransaction, "%s is in version %d and %s in version %d", pair[0], l, pair[1], r)
		}
	}
}
