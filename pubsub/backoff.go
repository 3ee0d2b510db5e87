package pubsub

import (
	"math/rand/v2"
	"time"
)

// jitterShare is how much of a wait may be added at random, so that events which failed together do not come back
// together.
const jitterShare = 0.1

// BackOff lists the waits before each redelivery; the last one repeats. Empty: redeliver at once.
type BackOff []time.Duration

// after returns the wait after that many failed deliveries (at least one), before jitter.
func (b BackOff) after(failed int) time.Duration {
	if len(b) == 0 {
		return 0
	}
	return b[min(max(failed, 1), len(b))-1]
}

// jittered never shortens a wait.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*jitterShare*float64(d))
}
