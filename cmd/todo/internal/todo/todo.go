// Package todo keeps todos: what may become of one, and how each change and the event that tells of it are stored together.
package todo

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
)

const (
	maxTitle = 200
	maxNotes = 4000
	maxKey   = 200
)

var (
	// ErrNotFound says that no todo has the id.
	ErrNotFound = errors.New("no such todo")
	// ErrVersion says that the todo is not at the version that the caller named: an update would have been lost.
	ErrVersion = errors.New("the todo has changed since it was read")
	// ErrStatus says that the todo's status does not allow the step.
	ErrStatus = errors.New("the todo's status does not allow this")
	// ErrKeyReused says that an idempotency key came again with another request.
	ErrKeyReused = errors.New("the idempotency key belongs to another request")
	// ErrGone says that the todo which an idempotency key made has been deleted since.
	ErrGone = errors.New("the todo made under this idempotency key has been deleted")
)

// Status is where a todo stands in the saga.
type Status string

// A todo is pending until the scheduler answered, then scheduled or rejected; open ones can be completed.
const (
	Pending   Status = "pending"
	Scheduled Status = "scheduled"
	Rejected  Status = "rejected"
	Completed Status = "completed"
)

// Todo is one task.
type Todo struct {
	ID     string    `json:"id"`
	Title  string    `json:"title"`
	Notes  string    `json:"notes,omitempty"`
	Due    time.Time `json:"due"`
	Status Status    `json:"status"`
	// Slot is when it is to be done; set while scheduled and kept after completion.
	Slot *event.Slot `json:"slot,omitempty"`
	// Reason is why it was rejected.
	Reason string `json:"reason,omitempty"`
	// DecidedBy is the id of the event that brought the scheduler's answer.
	DecidedBy   string    `json:"decidedBy,omitempty"`
	CreatedAt   time.Time `json:"createdAt"`
	UpdatedAt   time.Time `json:"updatedAt"`
	CompletedAt time.Time `json:"completedAt,omitzero"`
}

// Draft is what a caller says about a new todo.
type Draft struct {
	Title string `json:"title"`
	// Due is a date (the end of that day, UTC) or an RFC 3339 time.
	Due   string `json:"due"`
	Notes string `json:"notes"`
}

// Patch is an edit; nil leaves a field as it is.
type Patch struct {
	Title *string `json:"title"`
	Notes *string `json:"notes"`
}

func (t *Todo) open() bool { return t.Status == Pending || t.Status == Scheduled }

// complete reports whether anything changed; completing a completed todo changes nothing.
func (t *Todo) complete(now time.Time) (changed bool, err error) {
	if t.Status == Completed {
		return false, nil
	}
	if !t.open() {
		return false, fmt.Errorf("%w: status is %q, only %q and %q can be completed", ErrStatus, t.Status, Pending, Scheduled)
	}
	t.Status, t.CompletedAt, t.UpdatedAt = Completed, now, now
	return true, nil
}

// decide takes the scheduler's answer and reports whether it changed anything: the first answer to a pending
// todo does; a second one, or one that comes after completion, does not.
func (t *Todo) decide(eventID string, slot *event.Slot, reason string, now time.Time) bool {
	if t.Status != Pending {
		return false
	}
	t.Status, t.Slot, t.Reason = Scheduled, slot, reason
	if slot == nil {
		t.Status = Rejected
	}
	t.DecidedBy, t.UpdatedAt = eventID, now
	return true
}

func (t *Todo) edit(p Patch, now time.Time) error {
	if p.Title == nil && p.Notes == nil {
		return invalid.NewField("title", "", "title, notes or both to be given")
	}
	if p.Title != nil {
		title, err := checkTitle(*p.Title)
		if err != nil {
			return err
		}
		t.Title = title
	}
	if p.Notes != nil {
		if err := checkNotes(*p.Notes); err != nil {
			return err
		}
		t.Notes = *p.Notes
	}
	t.UpdatedAt = now
	return nil
}

func (d Draft) todo(id string, now time.Time) (Todo, error) {
	title, err := checkTitle(d.Title)
	if err != nil {
		return Todo{}, err
	}
	if err := checkNotes(d.Notes); err != nil {
		return Todo{}, err
	}
	due, err := parseDue(d.Due)
	if err != nil {
		return Todo{}, err
	}
	return Todo{ID: id, Title: title, Notes: d.Notes, Due: due, Status: Pending, CreatedAt: now, UpdatedAt: now}, nil
}

func checkTitle(title string) (string, error) {
	trimmed := strings.TrimSpace(title)
	if n := utf8.RuneCountInString(trimmed); n == 0 || n > maxTitle {
		return "", invalid.NewField("title", title, fmt.Sprintf("1 to %d characters", maxTitle))
	}
	return trimmed, nil
}

func checkNotes(notes string) error {
	if utf8.RuneCountInString(notes) > maxNotes {
		return invalid.NewField("notes", notes, fmt.Sprintf("at most %d characters", maxNotes))
	}
	return nil
}

func checkKey(key string) error {
	unprintable := func(r rune) bool { return r < '!' || r > '~' }
	if len(key) > maxKey || strings.ContainsFunc(key, unprintable) {
		return invalid.NewField("Idempotency-Key", key, fmt.Sprintf("1 to %d printable ASCII characters without spaces", maxKey))
	}
	return nil
}

func parseDue(due string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, due); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	at, err := time.Parse(time.RFC3339, due)
	// A zone can push the year 9999 over the end of what RFC 3339, and so JSON, can say.
	if err != nil || at.UTC().Year() > 9999 {
		return time.Time{}, invalid.NewField("due", due, "a date such as 2030-12-24 or an RFC 3339 time such as 2030-12-24T12:00:00Z")
	}
	return at.UTC(), nil
}
