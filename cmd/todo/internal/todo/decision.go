package todo

import (
	"context"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// TaskScheduled takes the scheduler's yes: the todo is scheduled for its slot.
func (s *Service) TaskScheduled(ctx context.Context, d event.Delivery) error {
	content, err := event.Decode[event.Scheduled](d)
	if err != nil {
		return err
	}
	return s.decide(ctx, d.ID, content.TodoID, &content.Slot, "")
}

// TaskRejected takes the scheduler's no: the todo that was created is compensated, it becomes rejected.
func (s *Service) TaskRejected(ctx context.Context, d event.Delivery) error {
	content, err := event.Decode[event.Rejected](d)
	if err != nil {
		return err
	}
	return s.decide(ctx, d.ID, content.TodoID, nil, content.Reason)
}

func (s *Service) decide(ctx context.Context, eventID, id string, slot *event.Slot, reason string) error {
	err := store.Retry(ctx, func(ctx context.Context) error {
		t, etag, err := store.Load[Todo](ctx, s.store, todoKey(id))
		if err != nil {
			return err
		}
		if etag == "" {
			s.logger.WarnContext(ctx, "Answer for a todo that is gone", "todo", id, "event", eventID)
			return nil
		}
		if !t.decide(eventID, slot, reason, s.clock.Now().UTC()) {
			s.logger.InfoContext(ctx, "Answer changes nothing", "todo", id, "event", eventID, "status", t.Status, "decidedBy", t.DecidedBy)
			return nil
		}
		err = s.store.Apply(ctx, store.Change{
			Writes: []store.Write{{Key: todoKey(id), Value: t, ETag: etag}},
			// The prefix keeps the key from that of another app which handles the same event in the same store.
			IdempotencyKey: "todo-api/" + eventID,
		})
		if err == nil {
			s.logger.InfoContext(ctx, "Todo "+string(t.Status), "todo", id, "event", eventID, "slot", slot, "reason", reason)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("apply %s to todo %s: %w", eventID, id, err)
	}
	return nil
}
