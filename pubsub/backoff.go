package pubsub

import (
	"math/rand/v2"
	"slices"
	"time"
)

// jitterShare is how much of a wait may be added at random, so that events which failed together do not come back
// together.
const jitterShare = 0.1

// BackOff lists the waits before each redelivery; the last one repeats. Empty: redeliver at once.
type BackOff []time.Duration

// due returns when an event goes out again after the failed deliveries and interruptions of its history.
func (b BackOff) due(h History, now time.Time) time.Time {
	return now.Add(jittered(b.after(h.Deliveries + h.Interruptions)))
}

// after returns the wait after that many attempts (at least one), before jitter.
func (b BackOff) after(attempts int) time.Duration {
	if len(b) == 0 {
		return 0
	}
	return b[min(max(attempts, 1), len(b))-1]
}

// Holds reports whether an event that is due at a time is to wait for it. One that is due later than any wait could end was
// given its time before the clock was set back, or by a process whose clock is ahead: it waits no longer.
func (b BackOff) Holds(due, now time.Time) bool {
	wait := due.Sub(now)
	return wait > 0 && len(b) > 0 && wait <= longestJittered(slices.Max(b))
}

// longestJittered is what jittered returns at most.
func longestJittered(d time.Duration) time.Duration { return d + time.Duration(jitterShare*float64(d)) }

// jittered never shortens a wait.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*jitterShare*float64(d))
}
