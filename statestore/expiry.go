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
