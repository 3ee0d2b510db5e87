package pubsub

import (
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
)

// leapingClock is set forward once, right after it was asked for the time.
type leapingClock struct {
	*clockwork.FakeClock
	leap time.Duration
}

func (c *leapingClock) Now() time.Time {
	now := c.FakeClock.Now()
	c.Advance(c.leap)
	c.leap = 0
	return now
}

func TestATimerIsNotLateByWhatItsClockWasSetForward(t *testing.T) {
	for _, leap := range []time.Duration{0, time.Millisecond, 4 * time.Second, 10 * time.Second} {
		clock := &leapingClock{FakeClock: clockwork.NewFakeClock(), leap: leap}
		fired, cancel := alarm(clock, clock.FakeClock.Now().Add(10*time.Second))
		clock.Advance(10*time.Second - leap)
		<-fired
		cancel()

		checked := make(chan struct{})
		ack := NewAckClock(clock, 10*time.Second, func() { close(checked) })
		ack.since, clock.leap = clock.FakeClock.Now(), leap
		require.False(t, ack.Expired(true))
		clock.Advance(10*time.Second - leap)
		<-checked
		ack.Stop()
	}
}
