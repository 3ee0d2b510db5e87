// Package throttled keeps a log from saying the same thing over and over.
package throttled

import "time"

// Log is one line of a log that is not written more often than once in so long. The zero value was never written. Not
// safe for concurrent use.
type Log struct {
	last       time.Time
	written    bool
	suppressed int
}

// Allow reports whether the line may be written now, that long after it was last, and how often it was not since. If it
// may not, that is counted.
func (l *Log) Allow(now time.Time, every time.Duration) (suppressed int, ok bool) {
	if l.written && now.Sub(l.last) < every {
		l.suppressed++
		return 0, false
	}
	suppressed = l.suppressed
	l.last, l.written, l.suppressed = now, true, 0
	return suppressed, true
}
