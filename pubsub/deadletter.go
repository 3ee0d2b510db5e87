package pubsub

import (
	"slices"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
)

// Reason says why an event became a dead letter.
type Reason string

const (
	// ReasonMaxDeliver: it was delivered as often as maxDeliver allows.
	ReasonMaxDeliver Reason = "max-deliver"
	// ReasonInterrupted: streams ended while it was its turn, as often in a row as maxDeliver allows, but at least twice.
	ReasonInterrupted Reason = "interrupted"
	// ReasonExpired: its time to live ended before it was handled.
	ReasonExpired Reason = "expired"
	// ReasonMaxAge: it grew older than its topic keeps events.
	ReasonMaxAge Reason = "max-age"
	// ReasonSkipped: a person did not want it to be delivered again.
	ReasonSkipped Reason = "skipped"
	// ReasonTooLarge: it was stored under other limits, and is too large to be delivered under today's.
	ReasonTooLarge Reason = "too-large"
	// ReasonUnreadable: what is stored of it cannot be decoded. It cannot be redriven.
	ReasonUnreadable Reason = "unreadable"
)

// Reasons lists them all.
var Reasons = []Reason{ReasonMaxDeliver, ReasonInterrupted, ReasonExpired, ReasonMaxAge, ReasonSkipped, ReasonTooLarge, ReasonUnreadable}

// minInterruptions is how many it takes to make a dead letter: a single one may be a restart of the app.
const minInterruptions = 2

func death(h History, reason Reason, now time.Time) Settlement {
	return Settlement{Outcome: Dead, History: h, Reason: reason, At: now}
}

// Failed returns what becomes of an event after one more failed delivery. Its history is that of the deliveries before.
func (o *SubscribeOptions) Failed(h History, reason string, now time.Time) Settlement {
	h = h.failed(Attempt{At: now, Error: shortened(reason)})
	if o.MaxDeliver > 0 && h.Deliveries >= o.MaxDeliver {
		return death(h, ReasonMaxDeliver, now)
	}
	return Settlement{Outcome: Retried, History: h, Due: o.BackOff.due(h, now)}
}

// Interrupted returns what becomes of an event over which its stream has ended. The first time, it comes again at once: most
// streams end because a sidecar stops or reloads a component, and the app may not even have seen the event.
func (o *SubscribeOptions) Interrupted(h History, now time.Time) Settlement {
	h = h.interrupted(now)
	if o.MaxDeliver > 0 && h.Interruptions >= max(o.MaxDeliver, minInterruptions) {
		return death(h, ReasonInterrupted, now)
	}
	due := now
	if h.Interruptions > 1 {
		due = o.BackOff.due(h, now)
	}
	return Settlement{Outcome: Retried, History: h, Due: due}
}

// Buried returns the dead letter that an event becomes after a delivery that no other would mend.
func Buried(h History, reason Reason, text string, now time.Time) Settlement {
	return death(h.failed(Attempt{At: now, Error: shortened(text)}), reason, now)
}

// AgesAt returns when an event that became available at a time is older than a topic with that MaxAge keeps it; zero: never.
// Who redrives an event wants it delivered, whatever its age.
func AgesAt(maxAge time.Duration, available time.Time, redriven int) time.Time {
	if maxAge <= 0 || redriven > 0 {
		return time.Time{}
	}
	return available.Add(maxAge)
}

// EndUndelivered returns what becomes of an event that must not be delivered any more; false: it may be. agesAt is that of
// AgesAt. Who redrives an event wants it delivered, whatever its time to live.
func EndUndelivered(e *Event, h History, agesAt time.Time, keepExpired bool, clock clockwork.Clock) (Settlement, bool) {
	expires := e.Expires
	if h.Redriven > 0 {
		expires = time.Time{}
	}
	if e.Unreadable == "" && expires.IsZero() && agesAt.IsZero() {
		return Settlement{}, false
	}
	now := clock.Now()
	switch expired := instant.Reached(expires, now); {
	case e.Unreadable != "":
		return death(h, ReasonUnreadable, now), true
	case expired && keepExpired:
		return death(h, ReasonExpired, now), true
	case expired:
		return Settlement{Outcome: Expired}, true
	case instant.Reached(agesAt, now):
		return death(h, ReasonMaxAge, now), true
	}
	return Settlement{}, false
}

// maxErrorBytes bounds the error text of an attempt.
const maxErrorBytes = 4096

func shortened(text string) string {
	if len(text) > maxErrorBytes {
		text = text[:maxErrorBytes] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

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
	// Before selects those that died before it.
	Before time.Time
	Reason Reason
	// Text selects those whose payload, event id or any error holds it, case-insensitively.
	Text string
	// After is the ID to continue after.
	After uint64
	// Limit bounds the page. Zero: DefaultPageSize.
	Limit int
}

// SelectsGroup reports whether the filter selects the dead letters of a group of a topic.
func (f *DeadLetterFilter) SelectsGroup(topic, group string) bool {
	return (f.Topic == "" || f.Topic == topic) && (f.Group == "" || f.Group == group)
}

// SelectsTime reports whether the filter selects those that died then.
func (f *DeadLetterFilter) SelectsTime(at time.Time) bool {
	return !at.Before(f.Since) && (f.Before.IsZero() || at.Before(f.Before))
}

// SelectsReason reports whether the filter selects those that died of it.
func (f *DeadLetterFilter) SelectsReason(reason Reason) bool {
	return f.Reason == "" || f.Reason == reason
}

// HasText reports whether the dead letter holds the filter's Text.
func (f *DeadLetterFilter) HasText(d *DeadLetter) bool {
	if f.Text == "" {
		return true
	}
	in := func(s string) bool { return HoldsText(s, f.Text) }
	return in(d.Event.ID) || in(string(d.Event.Data)) ||
		slices.ContainsFunc(d.History.Attempts, func(a Attempt) bool { return in(a.Error) })
}

// HoldsText reports whether s holds text, case-insensitively.
func HoldsText(s, text string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(text))
}

// DefaultPageSize is the page of a list that names no limit.
const DefaultPageSize = 100
