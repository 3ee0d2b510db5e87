package pubsub

// hand holds the deliveries of a stream that have not ended, in the order they were handed over.
type hand struct {
	oldest, newest *Delivery
	// untaken is the oldest that Next has not returned yet; those behind it have not been returned either.
	untaken  *Delivery
	byNumber map[uint64]*Delivery
	// given counts the deliveries that were ever handed over.
	given uint64
}

func (h *hand) len() int { return len(h.byNumber) }

// add gives d its number.
func (h *hand) add(d *Delivery) {
	h.given++
	d.Number = h.given
	h.byNumber[d.Number] = d
	d.inHand, d.before = true, h.newest
	if h.newest == nil {
		h.oldest = d
	} else {
		h.newest.behind = d
	}
	h.newest = d
	if h.untaken == nil {
		h.untaken = d
	}
}

// take returns the next delivery for Next, or nil.
func (h *hand) take() *Delivery {
	d := h.untaken
	if d != nil {
		h.untaken = d.behind
	}
	return d
}

func (h *hand) remove(d *Delivery) {
	delete(h.byNumber, d.Number)
	if h.untaken == d {
		h.untaken = d.behind
	}
	if d.before == nil {
		h.oldest = d.behind
	} else {
		d.before.behind = d.behind
	}
	if d.behind == nil {
		h.newest = d.before
	} else {
		d.behind.before = d.before
	}
	d.inHand, d.before, d.behind = false, nil, nil
}

// out returns the delivery of that number if Next has returned it and it has not ended, or nil.
func (h *hand) out(number uint64) *Delivery {
	if h.untaken != nil && number >= h.untaken.Number {
		return nil
	}
	return h.byNumber[number]
}
