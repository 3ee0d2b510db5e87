package scheduler

import (
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

// The hours of a day that slots are cut from, in UTC.
const (
	workStarts = 9 * time.Hour
	workEnds   = 17 * time.Hour
)

// MaxSlotsPerDay is the number of slots at which each lasts a minute.
const MaxSlotsPerDay = int((workEnds - workStarts) / time.Minute)

// Booking is a slot that a todo holds.
type Booking struct {
	TodoID string     `json:"todoId"`
	Slot   event.Slot `json:"slot"`
}

// Day is what is booked on one day, in the order of the slots.
type Day struct {
	Bookings []Booking `json:"bookings"`
}

// book gives the first free slot of the day that has not begun yet to a todo, or reports that there is none.
func (d *Day) book(todoID string, due, now time.Time, slotsPerDay int) (event.Slot, bool) {
	if len(d.Bookings) >= slotsPerDay {
		return event.Slot{}, false
	}
	midnight := due.UTC().Truncate(24 * time.Hour)
	length := (workEnds - workStarts) / time.Duration(slotsPerDay)
	for i := range slotsPerDay {
		start := midnight.Add(workStarts + time.Duration(i)*length)
		slot := event.Slot{Start: start, End: start.Add(length)}
		if start.Before(now) || slices.ContainsFunc(d.Bookings, func(b Booking) bool { return overlap(b.Slot, slot) }) {
			continue
		}
		d.Bookings = append(d.Bookings, Booking{TodoID: todoID, Slot: slot})
		slices.SortFunc(d.Bookings, func(a, b Booking) int { return a.Slot.Start.Compare(b.Slot.Start) })
		return slot, true
	}
	return event.Slot{}, false
}

func (d *Day) release(todoID string) {
	d.Bookings = slices.DeleteFunc(d.Bookings, func(b Booking) bool { return b.TodoID == todoID })
}

// overlap matters when the number of slots per day was changed after some were booked.
func overlap(a, b event.Slot) bool { return a.Start.Before(b.End) && b.Start.Before(a.End) }
