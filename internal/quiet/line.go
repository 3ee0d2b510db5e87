// Package quiet keeps a log from saying the same thing over and over.
package quiet

import "time"

// Line is a line of a log that is not written more often than once in so long. The zero value was never written. Only
// one goroutine may use it at a time.
type Line struct {
	last    time.Time
	written bool
	unsaid  int
}

// Due says whether the line may be written now, that long after it was last, and how often it was not since. If it may
// not, that is counted.
func (l *Line) Due(now time.Time, after time.Duration) (unsaid int, due bool) {
	if l.written && now.Sub(l.last) < after {
		l.unsaid++
		return 0, false
	}
	unsaid = l.unsaid
	l.last, l.written, l.unsaid = now, true, 0
	return unsaid, true
}
