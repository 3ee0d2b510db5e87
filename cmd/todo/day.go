package main

import (
	"slices"
	"time"
)

// opening is when the first slot of a day begins, in UTC. Each slot lasts an hour.
const opening = 9 * time.Hour

// day says which todo holds each slot of a day; a free one has no id.
type day [8]string

// book gives a todo the first free slot of the due date that has not begun yet. It returns nil if there is none.
func (d *day) book(todoID string, due, now time.Time) *slot {
	midnight := due.UTC().Truncate(24 * time.Hour)
	for i, holder := range d {
		start := midnight.Add(opening + time.Duration(i)*time.Hour)
		if holder == "" && !start.Before(now) {
			d[i] = todoID
			return &slot{Start: start, End: start.Add(time.Hour)}
		}
	}
	return nil
}

func (d *day) release(todoID string) {
	if i := slices.Index(d[:], todoID); i >= 0 {
		d[i] = ""
	}
}
