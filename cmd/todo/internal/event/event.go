// Package event holds what the two services of the todo app tell each other: topics, event ids and contents.
package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The topics of the saga. The api publishes the first three, the scheduler answers with the last two.
const (
	TaskCreated   = "task-created"
	TaskCompleted = "task-completed"
	TaskDeleted   = "task-deleted"
	TaskScheduled = "task-scheduled"
	TaskRejected  = "task-rejected"
)

// ErrMalformed marks an event that no later delivery can mend. Whoever delivers it drops it.
var ErrMalformed = errors.New("malformed event")

// Event is one fact about one todo.
type Event struct {
	// ID is the same for every publish of the same fact, so that a broker that knows ids stores it once.
	ID string `json:"id"`
	// Topic is where it is published.
	Topic string `json:"topic"`
	// TodoID is the todo that it is about; it travels as the CloudEvent's subject.
	TodoID string `json:"todoId"`
	// Data is its content, one of the types of this package as JSON.
	Data json.RawMessage `json:"data"`
}

// New makes the event of a topic about a todo. A todo has at most one event per topic, hence the id.
func New(topic, todoID string, data any) (Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode %s of todo %s: %w", topic, todoID, err)
	}
	return Event{ID: topic + "." + todoID, Topic: topic, TodoID: todoID, Data: raw}, nil
}

// Publisher sends events. Publish returns after the broker has accepted the event; an error says that it may
// or may not have, and that publishing it again under the same id is right.
type Publisher interface {
	Publish(ctx context.Context, e Event) error
}

// Delivery is one attempt of the broker to hand over an event.
type Delivery struct {
	// ID is the CloudEvent's id.
	ID string
	// Topic is the topic that the event was published on.
	Topic string
	// Attempt is the broker's count of deliveries of this event to this app, empty where it keeps none.
	Attempt string
	// Data is the event's content.
	Data json.RawMessage
}

// Handler takes a delivery. An error that wraps ErrMalformed drops the event, any other has it delivered again.
type Handler func(ctx context.Context, d Delivery) error

// Created is the content of task-created.
type Created struct {
	TodoID string    `json:"todoId"`
	Title  string    `json:"title"`
	Due    time.Time `json:"due"`
}

// Completed is the content of task-completed.
type Completed struct {
	TodoID      string    `json:"todoId"`
	CompletedAt time.Time `json:"completedAt"`
}

// Deleted is the content of task-deleted.
type Deleted struct {
	TodoID string `json:"todoId"`
}

// Slot is a stretch of time that the scheduler keeps for a todo, in UTC.
type Slot struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// LogValue shows a slot as start and end; a nil one as none.
func (s *Slot) LogValue() slog.Value {
	if s == nil {
		return slog.StringValue("none")
	}
	return slog.StringValue(s.Start.Format(time.RFC3339) + "/" + s.End.Format(time.RFC3339))
}

// Scheduled is the content of task-scheduled.
type Scheduled struct {
	TodoID string `json:"todoId"`
	Slot   Slot   `json:"slot"`
}

// Rejected is the content of task-rejected.
type Rejected struct {
	TodoID string `json:"todoId"`
	Reason string `json:"reason"`
}

// Content is what an event of the saga can carry.
type Content interface {
	Created | Completed | Deleted | Scheduled | Rejected
	check() error
}

// Decode reads a delivery's content. Its errors wrap ErrMalformed and name the field at fault.
func Decode[T Content](d Delivery) (T, error) {
	var content T
	if d.ID == "" {
		return content, fmt.Errorf("%w on %s: id is empty, want the CloudEvent's id", ErrMalformed, d.Topic)
	}
	if err := json.Unmarshal(d.Data, &content); err != nil {
		return content, fmt.Errorf("%w %s on %s: data: %w", ErrMalformed, d.ID, d.Topic, err)
	}
	if err := content.check(); err != nil {
		return content, fmt.Errorf("%w %s on %s: %w", ErrMalformed, d.ID, d.Topic, err)
	}
	return content, nil
}

func (c Created) check() error {
	return errors.Join(required("todoId", c.TodoID == ""), required("title", c.Title == ""), required("due", c.Due.IsZero()))
}

func (c Completed) check() error { return required("todoId", c.TodoID == "") }

func (d Deleted) check() error { return required("todoId", d.TodoID == "") }

func (s Scheduled) check() error {
	return errors.Join(required("todoId", s.TodoID == ""), required("slot.start", s.Slot.Start.IsZero()),
		required("slot.end", s.Slot.End.IsZero()))
}

func (r Rejected) check() error {
	return errors.Join(required("todoId", r.TodoID == ""), required("reason", r.Reason == ""))
}

func required(field string, missing bool) error {
	if missing {
		return fmt.Errorf("data.%s is empty, want a value", field)
	}
	return nil
}
