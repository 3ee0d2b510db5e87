package statestore

import "time"

// ExpiredAt reports whether something that expires then (zero: never) is absent at now: the instant itself is the first
// one of its absence.
func ExpiredAt(expires, now time.Time) bool {
	return !expires.IsZero() && !now.Before(expires)
}

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

// ExpiredInstant is ExpiredAt for what an engine stores of a time.
func ExpiredInstant(instant int64, now time.Time) bool { return ExpiredAt(InstantTime(instant), now) }
