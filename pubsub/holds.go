package pubsub

// holds says which events must wait for others, so that order is kept: events with a partition key that is in hand or
// being retried, and in an ordered group all events while one is.
type holds struct {
	inHand map[string]int
	// returned are those that a stream has put back, and that are to go out again before any later one.
	returned     map[string]int
	retrying     int
	retryingKeys map[string]int
}

func newHolds() holds {
	return holds{inHand: map[string]int{}, returned: map[string]int{}, retryingKeys: map[string]int{}}
}

func (h *holds) take(key string) {
	if key != "" {
		h.inHand[key]++
	}
}

func (h *holds) release(key string) { decrement(h.inHand, key) }

// putBack is release of an event that comes again; comesAgain ends it.
func (h *holds) putBack(key string) {
	h.release(key)
	if key != "" {
		h.returned[key]++
	}
}

func (h *holds) comesAgain(key string) { decrement(h.returned, key) }

// settle follows an event into and out of its retries.
func (h *holds) settle(key string, wasRetrying, isRetrying bool) {
	switch {
	case isRetrying && !wasRetrying:
		h.retrying++
		if key != "" {
			h.retryingKeys[key]++
		}
	case wasRetrying && !isRetrying:
		h.retrying--
		decrement(h.retryingKeys, key)
	}
}

// again says whether an event that was delivered before, or put back, may go out now.
func (h *holds) again(key string) bool { return h.inHand[key] == 0 }

// first says whether an event may go out for the first time.
func (h *holds) first(key string) bool {
	return h.inHand[key] == 0 && h.returned[key] == 0 && h.retryingKeys[key] == 0
}

func decrement(counts map[string]int, key string) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
