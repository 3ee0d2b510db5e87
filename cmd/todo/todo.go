package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const maxTitle = 200

// A todo is pending until the scheduler answered, then scheduled or rejected. Pending and scheduled ones can be
// completed.
const (
	pending   = "pending"
	scheduled = "scheduled"
	rejected  = "rejected"
	completed = "completed"
	// deleted is what is left of a todo, so that a deletion that was cut short can be repeated.
	deleted = "deleted"
)

// todo is one task: the record in the store, and what callers see.
type todo struct {
	ID     string    `json:"id"`
	Title  string    `json:"title"`
	Due    time.Time `json:"due"`
	Status string    `json:"status"`
	// Slot is when it is to be done; set while scheduled and kept after completion.
	Slot *slot `json:"slot,omitempty"`
	// Reason is why it was rejected.
	Reason string `json:"reason,omitempty"`
	// DecidedBy is the id of the event that brought the scheduler's answer.
	DecidedBy string `json:"decidedBy,omitempty"`
	// CreatedAt is in whole seconds, so that its text sorts as the time does.
	CreatedAt   time.Time `json:"createdAt"`
	UpdatedAt   time.Time `json:"updatedAt"`
	CompletedAt time.Time `json:"completedAt,omitzero"`
	// Request is a digest of the draft that made it. It tells whether an Idempotency-Key comes with the same request again.
	Request string `json:"request"`
}

// draft is what a caller says about a new todo.
type draft struct {
	Title string `json:"title"`
	// Due is a date (the end of that day, UTC) or an RFC 3339 time.
	Due string `json:"due"`
}

// newTodo checks a draft and makes a todo of it, with an id that follows from the key if there is one.
func newTodo(d draft, key string, now time.Time) (todo, error) {
	due, err := parseDue(d.Due)
	if err != nil {
		return todo{}, err
	}
	t := todo{ID: uuid.NewString(), Due: due, Status: pending, CreatedAt: now.UTC().Truncate(time.Second)}
	if key != "" {
		t.ID = digest("todo", key)
	}
	t.Request = digest("request", d.Title, d.Due)
	return t, t.rename(d.Title, now)
}

// there returns a refusal if the todo was never made, or was deleted.
func (t *todo) there() error {
	switch t.Status {
	case "":
		return refuse(http.StatusNotFound, "there is no such todo")
	case deleted:
		return refuse(http.StatusGone, "the todo %s was deleted", t.ID)
	}
	return nil
}

func (t *todo) rename(title string, now time.Time) error {
	t.Title, t.UpdatedAt = strings.TrimSpace(title), now.UTC()
	if n := utf8.RuneCountInString(t.Title); n == 0 || n > maxTitle {
		return invalid("title", title, fmt.Sprintf("1 to %d characters", maxTitle))
	}
	return t.there()
}

// complete reports whether anything changed: completing a completed todo changes nothing.
func (t *todo) complete(now time.Time) (changed bool, err error) {
	switch t.Status {
	case completed:
		return false, nil
	case pending, scheduled:
		t.Status, t.CompletedAt, t.UpdatedAt = completed, now.UTC(), now.UTC()
		return true, nil
	case rejected:
		return false, refuse(http.StatusConflict, "status is %q, only %q and %q can be completed", t.Status, pending, scheduled)
	}
	return false, t.there()
}

// remove reports whether anything changed, likewise.
func (t *todo) remove() (changed bool, err error) {
	if t.Status == deleted {
		return false, nil
	}
	err = t.there()
	*t = todo{ID: t.ID, Status: deleted, Request: t.Request}
	return true, err
}

// decide takes the scheduler's answer to a pending todo: a slot, or the reason why there is none.
func (t *todo) decide(d delivery, now time.Time) {
	t.Status, t.Slot, t.Reason = scheduled, d.Data.Slot, d.Data.Reason
	if t.Slot == nil {
		t.Status = rejected
	}
	t.DecidedBy, t.UpdatedAt = d.ID, now.UTC()
}

func digest(texts ...string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.Join(texts, "\x00"))).String()
}

func parseDue(due string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, due); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	at, err := time.Parse(time.RFC3339, due)
	// A zone can push the year 9999 over the end of what RFC 3339, and so JSON, can say.
	if err != nil || at.UTC().Year() > 9999 {
		return time.Time{}, invalid("due", due, "a date such as 2030-12-24 or an RFC 3339 time such as 2030-12-24T12:00:00Z")
	}
	return at.UTC(), nil
}
