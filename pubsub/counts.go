package pubsub

import (
	"maps"
	"sync/atomic"
	"time"
)

// TopicCounts count since the broker was opened.
type TopicCounts struct {
	// Published counts the events that the topic has taken, duplicates left out.
	Published uint64 `json:"published"`
	// Duplicates counts the events that were published again and dropped.
	Duplicates uint64 `json:"duplicates"`
}

// GroupCounts count since the broker was opened. An event that is delivered three times counts three times as delivered.
type GroupCounts struct {
	// Delivered counts the deliveries, Redelivered those among them of events that were delivered before.
	Delivered   uint64 `json:"delivered"`
	Redelivered uint64 `json:"redelivered"`
	// Acknowledged and Failed count the deliveries that ended in one way or the other. One that ran past its ackWait has
	// failed; one that ended with its stream is neither.
	Acknowledged uint64 `json:"acknowledged"`
	Failed       uint64 `json:"failed"`
	// Expired counts the events that ended by their time to live, and are no dead letters.
	Expired uint64 `json:"expired"`
	// DeadLettered counts the events that became dead letters. It has every Reason.
	DeadLettered map[Reason]uint64 `json:"deadLettered"`
	// Redriven counts the dead letters that were sent back.
	Redriven uint64 `json:"redriven"`
}

// NewGroupCounts returns counts that stand at zero.
func NewGroupCounts() GroupCounts {
	c := GroupCounts{DeadLettered: make(map[Reason]uint64, len(Reasons))}
	for _, r := range Reasons {
		c.DeadLettered[r] = 0
	}
	return c
}

// Clone returns a copy that shares nothing.
func (c *GroupCounts) Clone() GroupCounts {
	copied := *c
	copied.DeadLettered = maps.Clone(c.DeadLettered)
	return copied
}

// Totals count for all brokers of a process, for who draws rates. Their methods may be called from any goroutine.
type Totals struct {
	// They are what TopicCounts and GroupCounts have under these names.
	Published, Delivered, Acknowledged, Failed atomic.Uint64
}

// Histogram takes durations in seconds. A prometheus.Histogram is one. It must return at once: a broker calls it with its
// lock held.
type Histogram interface{ Observe(seconds float64) }

// Timings are where a group's times go. A nil Histogram takes none.
type Timings struct {
	// Wait is from when an event was published, or was due, to its first delivery.
	Wait Histogram
	// Handling is from a delivery to its acknowledgement.
	Handling Histogram
}

func observe(h Histogram, d time.Duration) {
	if h != nil {
		h.Observe(d.Seconds())
	}
}

// counts returns the counts of a group. It is called with b.mu held.
func (b *Broker) counts(name groupName) *GroupCounts {
	c := b.groupCounts[name]
	if c == nil {
		zero := NewGroupCounts()
		c = &zero
		b.groupCounts[name] = c
	}
	return c
}

// ended counts an event that ended unhandled.
func (c *GroupCounts) ended(s *Settlement) {
	if s.Outcome == Dead {
		c.DeadLettered[s.Reason]++
	} else {
		c.Expired++
	}
}

// GroupCounter is where what happens to the deliveries of a group is counted. Its methods are not safe for concurrent use.
type GroupCounter struct {
	*GroupCounts
	Totals  *Totals
	Timings Timings
}

// Delivered counts a delivery that Next returns, of an event with that history. again says that the event was delivered before,
// though neither tells.
func (c GroupCounter) Delivered(d *Delivery, h *History, again bool, now time.Time) {
	c.GroupCounts.Delivered++
	c.Totals.Delivered.Add(1)
	switch {
	case again || d.Count > 1 || h.Interruptions > 0:
		c.Redelivered++
	case h.Redriven == 0:
		observe(c.Timings.Wait, now.Sub(d.Event.AvailableAt()))
	}
}

// Answered counts the end of a delivery that the app, or its ackWait, has ended, and that Next returned at that time; zero:
// it did not.
func (c GroupCounter) Answered(outcome Outcome, since, now time.Time) {
	if outcome != Acked {
		c.Failed++
		c.Totals.Failed.Add(1)
		return
	}
	c.Acknowledged++
	c.Totals.Acknowledged.Add(1)
	if !since.IsZero() {
		observe(c.Timings.Handling, now.Sub(since))
	}
}
