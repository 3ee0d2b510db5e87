// Package instant says when a time has come of which zero means never. What ends at a time (a key, an idempotency key, an
// event's time to live, its age) is gone from that very instant on, in every engine.
package instant

import "time"

// Reached reports whether at has come by now: the instant itself counts. The zero time never comes.
func Reached(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }
