package statestore

import (
	"context"
	"time"
)

// Engine stores one namespace of state. Its methods may be called from any goroutine. Everything that an Engine is
// handed was checked by Store; now is the caller's clock.
type Engine interface {
	// Get returns one Item per key, in order, all from one consistent snapshot that holds every Apply that has
	// returned. Keys that have ended by now are not Found. An item that cannot be read has an Err (DamagedError); the
	// error is for when nothing can be read.
	Get(ctx context.Context, keys []string, now time.Time) ([]Item, error)

	// Apply takes each unit, in order, as one atomic step of its own, and returns the units' outcomes, one each, once
	// all that succeeded is on disk. Later units see the effect of earlier ones.
	//
	// A unit whose idempotency key is remembered at now succeeds and changes nothing. Else every change is checked (see
	// Change.Check) against the state that the unit finds; if one fails, its error is the outcome, and the unit leaves
	// no trace. Else the changes take effect in order, together with the idempotency key.
	//
	// The error is for when nothing was done, or when what was done is unknown.
	Apply(ctx context.Context, units []Unit, now time.Time) ([]error, error)

	// Sweep removes up to limit keys and idempotency keys that have ended by now, the oldest first, and returns how
	// many it dealt with; fewer than limit means that no more have ended. It is cheap when there is nothing to remove.
	// A value that cannot be read is left in place and reported by the error, beside the count, and will not be met
	// again.
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)
}

// Unit is what takes effect as a whole or not at all.
type Unit struct {
	Changes []Change
	// IdempotencyKey, unless empty, is remembered until IdempotencyEnd.
	IdempotencyKey string
	IdempotencyEnd time.Time
}

// Change is a checked Write, with times in place of durations.
type Change struct {
	Op          Op
	Key         string
	ETag        string
	FirstWrite  bool
	Value       []byte
	ContentType string
	// ExpiresAt is the instant from which the key is absent; zero: it stays.
	ExpiresAt time.Time
}

// Conditional says whether Check depends on what is stored.
func (c *Change) Conditional() bool { return c.ETag != "" || c.FirstWrite }

// Check returns an ETagMismatchError if the change must not take effect on a key whose present version has the ETag
// stored (empty: the key does not exist, or has ended).
func (c *Change) Check(stored string) error {
	switch {
	case c.ETag != "" && c.ETag != stored, c.ETag == "" && c.FirstWrite && stored != "":
		return &ETagMismatchError{Key: c.Key, ETag: c.ETag, Stored: stored}
	default:
		return nil
	}
}
