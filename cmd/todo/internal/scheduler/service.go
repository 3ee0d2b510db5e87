// Package scheduler books a slot for each new todo, or says why it cannot: the second service of the todo app.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// DefaultSlotsPerDay is how many todos fit into a day unless Options says otherwise.
const DefaultSlotsPerDay = 8

// Options sets a Service up. Store and Publisher are required.
type Options struct {
	Store     store.Store
	Publisher event.Publisher
	// SlotsPerDay is how many todos fit into a day, up to MaxSlotsPerDay; DefaultSlotsPerDay if zero.
	SlotsPerDay int
	// Faults makes some todos fail on purpose; none if nil.
	Faults *Faults
	// Clock defaults to the real one.
	Clock clockwork.Clock
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Service books slots. Its handlers may be called at the same time, also by several processes on one store.
type Service struct {
	store       store.Store
	publisher   event.Publisher
	slotsPerDay int
	faults      *Faults
	clock       clockwork.Clock
	logger      *slog.Logger
}

// The records of the scheduler in its state store:
//
//	day/<2006-01-02>     Day
//	decision/<todo id>   decision: what was answered for a todo, so that it is answered once and always the same
//
// A day changes in one transaction with the decision that changes it.
type decision struct {
	Outcome outcome     `json:"outcome"`
	Slot    *event.Slot `json:"slot,omitempty"`
	Reason  string      `json:"reason,omitempty"`
	// EventID is the event that led to the decision.
	EventID string `json:"eventId"`
}

type outcome string

const (
	booked   outcome = "booked"
	rejected outcome = "rejected"
	// released is final: the todo is completed or deleted and needs no slot, also if its creation is heard of later.
	released outcome = "released"
)

// New makes a Service. It returns an error that names the option at fault.
func New(o Options) (*Service, error) {
	if o.SlotsPerDay == 0 {
		o.SlotsPerDay = DefaultSlotsPerDay
	}
	if o.SlotsPerDay < 1 || o.SlotsPerDay > MaxSlotsPerDay {
		return nil, fmt.Errorf("slots per day is %d, want 1 to %d", o.SlotsPerDay, MaxSlotsPerDay)
	}
	if o.Faults == nil {
		o.Faults = &Faults{}
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: o.Store, publisher: o.Publisher, slotsPerDay: o.SlotsPerDay, faults: o.Faults,
		clock: o.Clock, logger: o.Logger}, nil
}

// TaskCreated books a slot and publishes task-scheduled, or publishes task-rejected. The decision is stored
// before it is published: a crash between the two leaves the event undelivered, and its redelivery finds the
// decision and publishes it again under the same event id.
func (s *Service) TaskCreated(ctx context.Context, d event.Delivery) error {
	content, err := event.Decode[event.Created](d)
	if err != nil {
		return err
	}
	if err := s.faults.check(content.Title); err != nil {
		return err
	}
	var made decision
	err = store.Retry(ctx, func(ctx context.Context) error {
		made, err = s.decide(ctx, d.ID, content)
		return err
	})
	if err != nil {
		return fmt.Errorf("book a slot for todo %s: %w", content.TodoID, err)
	}
	return s.answer(ctx, content.TodoID, made)
}

func (s *Service) decide(ctx context.Context, eventID string, content event.Created) (decision, error) {
	made, etag, err := store.Load[decision](ctx, s.store, decisionKey(content.TodoID))
	if err != nil {
		return decision{}, err
	}
	if etag != "" {
		s.logger.InfoContext(ctx, "Already decided", "todo", content.TodoID, "event", eventID, "outcome", made.Outcome, "by", made.EventID)
		return made, nil
	}
	made = decision{Outcome: rejected, EventID: eventID}
	var writes []store.Write
	switch now := s.clock.Now(); {
	case content.Due.Before(now):
		made.Reason = fmt.Sprintf("due date in the past: %s", content.Due.Format(time.RFC3339))
	default:
		key := dayKey(content.Due)
		day, etag, err := store.Load[Day](ctx, s.store, key)
		if err != nil {
			return decision{}, err
		}
		slot, ok := day.book(content.TodoID, content.Due, now, s.slotsPerDay)
		if !ok {
			made.Reason = fmt.Sprintf("no slot left on %s: %d of %d booked", dateOf(content.Due), len(day.Bookings), s.slotsPerDay)
			if len(day.Bookings) < s.slotsPerDay {
				made.Reason += ", the others have begun"
			}
			break
		}
		made.Outcome, made.Slot = booked, &slot
		writes = append(writes, store.Write{Key: key, Value: day, ETag: etag})
	}
	writes = append(writes, store.Write{Key: decisionKey(content.TodoID), Value: made})
	if err := s.store.Apply(ctx, store.Change{Writes: writes}); err != nil {
		return decision{}, err
	}
	s.logger.InfoContext(ctx, "Decided", "todo", content.TodoID, "event", eventID, "outcome", made.Outcome, "slot", made.Slot, "reason", made.Reason)
	return made, nil
}

func (s *Service) answer(ctx context.Context, todoID string, made decision) error {
	var e event.Event
	var err error
	switch made.Outcome {
	case booked:
		e, err = event.New(event.TaskScheduled, todoID, event.Scheduled{TodoID: todoID, Slot: *made.Slot})
	case rejected:
		e, err = event.New(event.TaskRejected, todoID, event.Rejected{TodoID: todoID, Reason: made.Reason})
	case released:
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.publisher.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID, err)
	}
	return nil
}

// TaskCompleted frees the todo's slot.
func (s *Service) TaskCompleted(ctx context.Context, d event.Delivery) error {
	content, err := event.Decode[event.Completed](d)
	if err != nil {
		return err
	}
	return s.release(ctx, d.ID, content.TodoID)
}

// TaskDeleted frees the todo's slot.
func (s *Service) TaskDeleted(ctx context.Context, d event.Delivery) error {
	content, err := event.Decode[event.Deleted](d)
	if err != nil {
		return err
	}
	return s.release(ctx, d.ID, content.TodoID)
}

func (s *Service) release(ctx context.Context, eventID, todoID string) error {
	err := store.Retry(ctx, func(ctx context.Context) error {
		made, etag, err := store.Load[decision](ctx, s.store, decisionKey(todoID))
		if err != nil || made.Outcome == released {
			return err
		}
		writes := []store.Write{{
			Key: decisionKey(todoID), ETag: etag,
			Value: decision{Outcome: released, Slot: made.Slot, EventID: eventID},
		}}
		if made.Outcome == booked {
			key := dayKey(made.Slot.Start)
			day, etag, err := store.Load[Day](ctx, s.store, key)
			if err != nil {
				return err
			}
			day.release(todoID)
			writes = append(writes, store.Write{Key: key, Value: day, ETag: etag})
		}
		// The prefix keeps the key from that of another app which handles the same event in the same store.
		err = s.store.Apply(ctx, store.Change{Writes: writes, IdempotencyKey: "todo-scheduler/" + eventID})
		if err == nil {
			s.logger.InfoContext(ctx, "Released", "todo", todoID, "event", eventID, "slot", made.Slot)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("release the slot of todo %s: %w", todoID, err)
	}
	return nil
}

// Day returns what is booked on a date.
func (s *Service) Day(ctx context.Context, date time.Time) (Day, error) {
	day, _, err := store.Load[Day](ctx, s.store, dayKey(date))
	if err != nil {
		return Day{}, fmt.Errorf("get day %s: %w", dateOf(date), err)
	}
	return day, nil
}

func dayKey(t time.Time) string { return "day/" + dateOf(t) }

func decisionKey(todoID string) string { return "decision/" + todoID }

func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }
