package statestore

import "time"

// Item is one version of a key, or the news that there is none.
type Item struct {
	Key string
	// Found says whether the key exists; if not, all fields below are zero.
	Found bool
	// Value is byte for byte what was set. It belongs to whoever got the Item.
	Value []byte
	// ETag names this version of this key for ever.
	ETag string
	// ContentType is what the set call said; it may be empty.
	ContentType string
	// ExpiresAt is the instant from which the key is absent; zero: it stays.
	ExpiresAt time.Time
	// Err is set by GetMany instead of Found when this one item cannot be read.
	Err error
}

// Live says whether something that ends at expiresAt (zero: never) is still there at now: its last instant is the one
// before expiresAt.
func Live(expiresAt, now time.Time) bool {
	return expiresAt.IsZero() || now.Before(expiresAt)
}
