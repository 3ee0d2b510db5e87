package pubsub

import "time"

// Reason says why an event became a dead letter.
type Reason string

const (
	// ReasonMaxDeliver: it was delivered as often as maxDeliver allows.
	ReasonMaxDeliver Reason = "max-deliver"
	// ReasonInterrupted: streams ended while it was being handled, as often in a row as maxDeliver allows, but at least twice.
	ReasonInterrupted Reason = "interrupted"
	// ReasonExpired: its time to live ended before it was handled.
	ReasonExpired Reason = "expired"
	// ReasonMaxAge: it grew older than its topic keeps events.
	ReasonMaxAge Reason = "max-age"
	// ReasonTooLarge: it was stored under other limits, and is too large to be delivered under today's.
	ReasonTooLarge Reason = "too-large"
	// ReasonUnreadable: what is stored of it cannot be decoded. It cannot be redriven.
	ReasonUnreadable Reason = "unreadable"
)

// DeadLetter is an event that a consumer group could not handle, kept until a person redrives or purges it.
type DeadLetter struct {
	// ID names the dead letter within its namespace (a database file and bucket); never used again.
	ID      uint64
	Group   string
	Event   Event
	History History
	Reason  Reason
	Time    time.Time
}

// LastError is why the event cannot be read, the error text of its newest failed delivery, or empty.
func (d *DeadLetter) LastError() string {
	if d.Event.Unreadable != "" {
		return d.Event.Unreadable
	}
	if n := len(d.History.Attempts); n > 0 {
		return d.History.Attempts[n-1].Error
	}
	return ""
}

// DeadLetterFilter selects dead letters; zero fields select all.
type DeadLetterFilter struct {
	Topic, Group string
	// Since selects those that died at or after it.
	Since time.Time
	// Text selects those whose payload, event id or any error holds it, case-insensitively.
	Text string
	// After is the ID to continue after.
	After uint64
	// Limit bounds the page. Zero: DefaultPageSize.
	Limit int
}

// DefaultPageSize is the page of a list that names no limit.
const DefaultPageSize = 100
