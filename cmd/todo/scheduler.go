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
	dapr   *sidecar
	log    *slog.Logger
	faults faults
}

// decision is the answer to a todo's creation: the event to publish, stored so that it is always the same. It has no topic
// once the todo is completed or deleted and needs no slot, also if its creation is heard of later.
type decision struct {
	Topic   string  `json:"topic,omitempty"`
	Content content `json:"content"`
}

// register adds the scheduler's routes and subscriptions:
//
//	GET /days/{date}         who holds the slots of a date
//	PUT /faults              if that is allowed
func (s *scheduler) register(to *server, allowFaults bool) {
	to.subscribe(taskCreated, s.faults.before(s.created))
	to.subscribe(taskCompleted, s.release)
	to.subscribe(taskDeleted, s.release)
	to.handle("GET /days/{date}", s.showDay)
	if allowFaults {
		to.handle("PUT /faults", s.faults.inject)
	}
}

// created books a slot and publishes task-scheduled, or publishes task-rejected. The decision is stored first: after a
// crash between the two the event comes again, finds the decision and publishes it.
func (s *scheduler) created(ctx context.Context, d delivery) error {
	if err := retry(ctx, func() error { return s.decide(ctx, d) }); err != nil {
		return fmt.Errorf("book a slot for todo %s: %w", d.Data.TodoID, err)
	}
	// As it is stored: of two deliveries at once, one made it.
	made, _, err := load[decision](ctx, s.dapr, decisionKey(d.Data.TodoID))
	if err != nil || made.Topic == "" {
		return err
	}
	return s.dapr.publish(ctx, made.Topic, made.Content)
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
	made = decision{Topic: taskRejected, Content: content{TodoID: id}}
	if due.Before(now) {
		made.Content.Reason = "due date in the past: " + due.Format(time.RFC3339)
	} else if at := booked.book(id, due, now); at != nil {
		made.Topic, made.Content.Slot = taskScheduled, at
	} else {
		made.Content.Reason = "no slot left on " + dateOf(due)
	}
	s.log.InfoContext(ctx, "Decided", "todo", id, "event", d.ID, "topic", made.Topic, "slot", made.Content.Slot, "reason", made.Content.Reason)
	return s.dapr.saveAll(ctx, d.ID, write{dayKey(due), booked, etag}, write{key: decisionKey(id), value: made})
}

// release frees the slot of a todo that is completed or deleted.
func (s *scheduler) release(ctx context.Context, d delivery) error {
	id := d.Data.TodoID
	err := retry(ctx, func() error {
		made, etag, err := load[decision](ctx, s.dapr, decisionKey(id))
		if err != nil || etag != "" && made.Topic == "" {
			return err
		}
		writes := []write{{decisionKey(id), decision{Content: content{TodoID: id}}, etag}}
		if at := made.Content.Slot; at != nil {
			booked, etag, err := load[day](ctx, s.dapr, dayKey(at.Start))
			if err != nil {
				return err
			}
			booked.release(id)
			writes = append(writes, write{dayKey(at.Start), booked, etag})
		}
		return s.dapr.saveAll(ctx, d.ID, writes...)
	})
	if err != nil {
		return fmt.Errorf("release the slot of todo %s: %w", id, err)
	}
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
	return writeJSON(w, http.StatusOK, map[string]any{"date": dateOf(date), "slots": booked})
}

func dayKey(t time.Time) string { return "day/" + dateOf(t) }

func decisionKey(todoID string) string { return "decision/" + todoID }

func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }
