package main

import (
	"slices"
	"time"
)

// The hours of a day that slots are cut from, in UTC.
const (
	workStarts = 9 * time.Hour
	workEnds   = 17 * time.Hour
)

// maxSlotsPerDay is the number of slots at which each lasts a minute.
const maxSlotsPerDay = int((workEnds - workStarts) / time.Minute)

// booking is a slot that a todo holds.
type booking struct {
	TodoID string `json:"todoId"`
	Slot   slot   `json:"slot"`
}

// day is what is booked on one day, in the order of the slots.
type day struct {
	Bookings []booking `json:"bookings"`
}

// book gives the first free slot of the due date that has not begun yet to a todo, or reports that there is none.
func (d *day) book(todoID string, due, now time.Time, slotsPerDay int) (*slot, bool) {
	if len(d.Bookings) >= slotsPerDay {
		return nil, false
	}
	midnight := due.UTC().Truncate(24 * time.Hour)
	length := (workEnds - workStarts) / time.Duration(slotsPerDay)
	for i := range slotsPerDay {
		start := midnight.Add(workStarts + time.Duration(i)*length)
		s := slot{Start: start, End: start.Add(length)}
		if start.Before(now) || slices.ContainsFunc(d.Bookings, func(b booking) bool { return overlap(b.Slot, s) }) {
			continue
		}
		d.Bookings = append(d.Bookings, booking{TodoID: todoID, Slot: s})
		slices.SortFunc(d.Bookings, func(a, b booking) int { return a.Slot.Start.Compare(b.Slot.Start) })
		return &s, true
	}
	return nil, false
}

func (d *day) release(todoID string) {
	d.Bookings = slices.DeleteFunc(d.Bookings, func(b booking) bool { return b.TodoID == todoID })
}

// overlap matters when the number of slots per day was changed after some were booked.
func overlap(a, b slot) bool { return a.Start.Before(b.End) && b.Start.Before(a.End) }
