package statestore

import (
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
)

// Expires returns the instant from which the key is absent, if the write takes effect at now; zero: it stays.
func (w *Write) Expires(now time.Time) time.Time {
	if w.TTL == 0 {
		return time.Time{}
	}
	return now.Add(w.TTL)
}

// IdempotencyExpires returns the instant from which the idempotency key is forgotten, if the transaction takes effect at
// now.
func (t *Transaction) IdempotencyExpires(now time.Time) time.Time {
	if t.IdempotencyWindow == 0 {
		return now.Add(DefaultIdempotencyWindow)
	}
	return now.Add(t.IdempotencyWindow)
}

// InstantOf returns what engines store of a time: nanoseconds since 1970, UTC. The zero time is 0: never.
func InstantOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// InstantTime is the reverse of InstantOf.
func InstantTime(instant int64) time.Time {
	if instant == 0 {
		return time.Time{}
	}
	return time.Unix(0, instant).UTC()
}

// ExpiredInstant reports whether what expires at a time that an engine has stored is absent at now.
func ExpiredInstant(expires int64, now time.Time) bool {
	return instant.Reached(InstantTime(expires), now)
}
