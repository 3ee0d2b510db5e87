package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// scheduler books a slot for each new todo, or says why it cannot: the second service. Its records in the store:
//
//	day/<2006-01-02>     day
//	decision/<todo id>   decision
//
// A day changes in one transaction with the decision that changes it.
type scheduler struct {
	dapr        *sidecar
	log         *slog.Logger
	slotsPerDay int
	demo        demo
}

// decision is what was answered for a todo, so that it is answered once and always the same.
type decision struct {
	Outcome string `json:"outcome"`
	Slot    *slot  `json:"slot,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// EventID is the event that led to the decision.
	EventID string `json:"eventId"`
}

// released is the outcome for a todo that is completed or deleted and needs no slot, also if its creation is heard of
// later. The others are scheduled and rejected.
const released = "released"

// register adds the scheduler's routes and subscriptions:
//
//	GET /days/{date}         what is booked on a date
func (s *scheduler) register(to *server, allowFaults bool) {
	to.subscribe(taskCreated, s.demo.before(s.created))
	to.subscribe(taskCompleted, s.demo.before(s.release))
	to.subscribe(taskDeleted, s.demo.before(s.release))
	to.handle("GET /days/{date}", s.showDay)
	s.demo.register(to, allowFaults)
}

// created books a slot and publishes task-scheduled, or publishes task-rejected. The decision is stored first: after a
// crash between the two the event comes again, finds the decision and publishes it.
func (s *scheduler) created(ctx context.Context, d delivery) error {
	if err := retry(ctx, func() error { return s.decide(ctx, d) }); err != nil {
		return fmt.Errorf("book a slot for todo %s: %w", d.Data.TodoID, err)
	}
	// As it is stored: of two deliveries at once, one made it.
	made, _, err := load[decision](ctx, s.dapr, decisionKey(d.Data.TodoID))
	switch {
	case err != nil || made.Outcome == released:
		return err
	case made.Outcome == scheduled:
		return s.dapr.publish(ctx, taskScheduled, content{TodoID: d.Data.TodoID, Slot: made.Slot})
	}
	return s.dapr.publish(ctx, taskRejected, content{TodoID: d.Data.TodoID, Reason: made.Reason})
}

// decide stores a decision about a todo unless there is one.
func (s *scheduler) decide(ctx context.Context, d delivery) error {
	id, due, now := d.Data.TodoID, d.Data.Due, time.Now()
	made, etag, err := load[decision](ctx, s.dapr, decisionKey(id))
	if err != nil || etag != "" {
		return err
	}
	booked, etag, err := load[day](ctx, s.dapr, dayKey(due))
	if err != nil {
		return err
	}
	made = decision{Outcome: rejected, EventID: d.ID}
	var writes []write
	if due.Before(now) {
		made.Reason = "due date in the past: " + due.Format(time.RFC3339)
	} else if at, ok := booked.book(id, due, now, s.slotsPerDay); ok {
		made.Outcome, made.Slot = scheduled, at
		writes = append(writes, write{key: dayKey(due), value: booked, etag: etag})
	} else {
		made.Reason = fmt.Sprintf("no slot left on %s: %d of %d booked", dateOf(due), len(booked.Bookings), s.slotsPerDay)
	}
	s.log.InfoContext(ctx, "Decided", "todo", id, "event", d.ID, "outcome", made.Outcome, "slot", made.Slot, "reason", made.Reason)
	return s.dapr.saveAll(ctx, d.ID, append(writes, write{key: decisionKey(id), value: made})...)
}

// release frees the slot of a todo that is completed or deleted.
func (s *scheduler) release(ctx context.Context, d delivery) error {
	id := d.Data.TodoID
	err := retry(ctx, func() error {
		made, etag, err := load[decision](ctx, s.dapr, decisionKey(id))
		if err != nil || made.Outcome == released {
			return err
		}
		writes := []write{{key: decisionKey(id), value: decision{Outcome: released, Slot: made.Slot, EventID: d.ID}, etag: etag}}
		if made.Outcome == scheduled {
			key := dayKey(made.Slot.Start)
			booked, etag, err := load[day](ctx, s.dapr, key)
			if err != nil {
				return err
			}
			booked.release(id)
			writes = append(writes, write{key: key, value: booked, etag: etag})
		}
		return s.dapr.saveAll(ctx, d.ID, writes...)
	})
	if err != nil {
		return fmt.Errorf("release the slot of todo %s: %w", id, err)
	}
	s.log.InfoContext(ctx, "Released", "todo", id, "event", d.ID)
	return nil
}

func (s *scheduler) showDay(w http.ResponseWriter, r *http.Request) error {
	date, err := time.Parse(time.DateOnly, r.PathValue("date"))
	if err != nil {
		return invalid("date", r.PathValue("date"), "a date such as 2030-12-24")
	}
	booked, _, err := load[day](r.Context(), s.dapr, dayKey(date))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"date": dateOf(date), "slotsPerDay": s.slotsPerDay, "bookings": append([]booking{}, booked.Bookings...),
	})
}

func dayKey(t time.Time) string { return "day/" + dateOf(t) }

func decisionKey(todoID string) string { return "decision/" + todoID }

func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }
