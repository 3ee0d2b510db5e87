package pubsub

import (
	"time"

	"github.com/jonboulle/clockwork"
)

// AckClock measures how long the oldest event that a stream has in flight is being handled, against the stream's AckWait.
// The stream's lock guards it.
type AckClock struct {
	clock clockwork.Clock
	wait  time.Duration
	check func()
	timer clockwork.Timer // nil: none is running
	since time.Time
}

// NewAckClock returns a clock that calls check, without the stream's lock, whenever the time may have run out: check must
// ask Expired. With a wait of 0, it never does.
func NewAckClock(clock clockwork.Clock, wait time.Duration, check func()) AckClock {
	return AckClock{clock: clock, wait: wait, check: check}
}

// Restart begins to measure an event that became the oldest. A timer that is running already finds out about it when it
// fires.
func (c *AckClock) Restart() {
	if c.wait <= 0 {
		return
	}
	c.since = c.clock.Now()
	if c.timer == nil {
		c.start()
	}
}

// start has check called when the time of the oldest event runs out.
func (c *AckClock) start() {
	c.timer = timerAt(c.clock, c.since.Add(c.wait), func(left time.Duration) clockwork.Timer {
		return c.clock.AfterFunc(left, c.check)
	})
}

// Expired reports to check whether the time of the oldest event has run out; else check is called again when it may have.
// inFlight reports whether there is such an event.
func (c *AckClock) Expired(inFlight bool) bool {
	c.timer = nil
	if !inFlight {
		return false
	}
	if c.clock.Since(c.since) < c.wait {
		c.start()
		return false
	}
	return true
}

// Since returns when the oldest event became that.
func (c *AckClock) Since() time.Time { return c.since }

// Stop ends the clock with its stream.
func (c *AckClock) Stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}
