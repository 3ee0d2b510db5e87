package e2e

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	copies = 5
	// poison is the word that the scheduler's handler is made to fail for.
	poison = "cursed"
)

// soon is a day that has free slots whatever the hour.
func soon() time.Time { return time.Now().UTC().AddDate(0, 0, 7).Truncate(time.Second) }

// createSoon creates a todo and waits until it is scheduled.
func (s *Story) createSoon(ctx context.Context, title string) (saw []string, t todo, err error) {
	made, err := s.create(ctx, title, soon())
	if err != nil {
		return nil, made, err
	}
	saw = []string{fmt.Sprintf("todo %s: created, %s", made.ID, made.Status)}
	t, err = s.seeStatus(ctx, made.ID, scheduled)
	return saw, t, err
}

func (s *Story) created(ctx context.Context) ([]string, error) {
	saw, t, err := s.createSoon(ctx, "Water the plants")
	if err != nil {
		return saw, err
	}
	if t.Slot == nil || t.DecidedBy == "" {
		return saw, mismatch("a slot and the event that brought it", fmt.Sprintf("%+v", t))
	}
	return append(saw, fmt.Sprintf("todo %s: %s for %s by event %s", t.ID, t.Status, t.Slot.Start.Format(time.RFC3339), t.DecidedBy)), nil
}

func (s *Story) rejected(ctx context.Context) ([]string, error) {
	made, err := s.create(ctx, "Catch yesterday's train", time.Now().AddDate(0, 0, -1))
	if err != nil {
		return nil, err
	}
	saw := []string{fmt.Sprintf("todo %s: created, %s, due %s", made.ID, made.Status, made.Due.Format(time.RFC3339))}
	t, err := s.seeStatus(ctx, made.ID, rejected)
	if err != nil {
		return saw, err
	}
	if t.Slot != nil || !strings.Contains(t.Reason, "past") {
		return saw, mismatch("no slot, and the past due date as the reason", fmt.Sprintf("%+v", t))
	}
	return append(saw, fmt.Sprintf("todo %s: %s by event %s, because: %s", t.ID, t.Status, t.DecidedBy, t.Reason)), nil
}

// duplicates publishes through the sidecar what the api would publish, and then one
// more event: as events reach a group in publish order, its arrival says that all
// the copies that would ever arrive have done so.
func (s *Story) duplicates(ctx context.Context) ([]string, error) {
	publish := func(id string) (taskCreated, error) {
		content := taskCreated{TodoID: id, Title: "Told more than once", Due: soon()}
		return content, s.Todo.APISidecar.Publish(ctx, harness.PubSubComponent, taskCreatedTopic, content,
			map[string]string{"cloudevent.id": createdEvent(id)})
	}
	repeated, last := uuid.NewString(), uuid.NewString()
	for range copies {
		if _, err := publish(repeated); err != nil {
			return nil, err
		}
	}
	content, err := publish(last)
	if err != nil {
		return nil, err
	}
	saw := []string{fmt.Sprintf("event %s: published %d times, each accepted", createdEvent(repeated), copies)}

	err = see(ctx, "the event published after them to be handled", func(ctx context.Context) (string, bool, error) {
		c, err := s.count(createdEvent(last))
		return fmt.Sprintf("%+v", c), c.Handled == 1, err
	})
	if err != nil {
		return saw, err
	}
	c, err := s.count(createdEvent(repeated))
	if err != nil {
		return saw, err
	}
	booked, err := s.bookings(ctx, repeated, content.Due)
	if err != nil {
		return saw, err
	}
	saw = append(saw, fmt.Sprintf("event %s: deliveries %d, handled %d, slots booked %d", createdEvent(repeated), c.Deliveries, c.Handled, booked))
	if c != (count{Deliveries: 1, Handled: 1}) || booked != 1 {
		return saw, mismatch("1 of each", saw[len(saw)-1])
	}
	return saw, nil
}

func (s *Story) dead(ctx context.Context) ([]string, error) {
	if err := s.breakHandler(ctx, poison); err != nil {
		return nil, err
	}
	var err error
	if s.doomed, err = s.create(ctx, "A "+poison+" task", soon()); err != nil {
		return nil, err
	}
	event := createdEvent(s.doomed.ID)
	saw := []string{fmt.Sprintf("event %s: its handler fails", event)}

	err = see(ctx, "one dead letter of the scheduler", func(ctx context.Context) (string, bool, error) {
		letters, err := s.deadLetters(ctx)
		if len(letters) == 1 {
			s.letter = letters[0]
		}
		return fmt.Sprintf("%d dead letters", len(letters)), len(letters) == 1, err
	})
	if err != nil {
		return saw, err
	}
	var c count
	err = see(ctx, "the scheduler's log of each delivery", func(context.Context) (string, bool, error) {
		c, err = s.count(event)
		return fmt.Sprintf("%+v", c), c.Deliveries >= maxDeliver, err
	})
	if err != nil {
		return saw, err
	}
	saw = append(saw,
		fmt.Sprintf("event %s: deliveries %d, handled %d", event, c.Deliveries, c.Handled),
		fmt.Sprintf("dead letter %d: topic %s, group %s, deliveries %d, last error: %s",
			s.letter.ID, s.letter.Topic, s.letter.Group, s.letter.Deliveries, oneLine(s.letter.LastError)))
	switch {
	case !strings.Contains(s.letter.Event.ID, event):
		return saw, mismatch("the dead letter of event "+event, s.letter.Event.ID)
	case c != (count{Deliveries: maxDeliver}) || s.letter.Deliveries != maxDeliver:
		return saw, mismatch(fmt.Sprintf("%d deliveries", maxDeliver), saw[len(saw)-2:])
	case !strings.Contains(s.letter.LastError, "injected fault") || !strings.Contains(s.letter.LastError, s.doomed.Title):
		return saw, mismatch("the error text of the app", s.letter.LastError)
	}
	return saw, nil
}

func (s *Story) redriven(ctx context.Context) ([]string, error) {
	if err := s.breakHandler(ctx, ""); err != nil {
		return nil, err
	}
	if err := s.Todo.Bolt.Command(ctx, nil, "dead-letters", "redrive", fmt.Sprint(s.letter.ID),
		"--database", s.letter.Database, "--bucket", s.letter.Name); err != nil {
		return nil, err
	}
	saw := []string{fmt.Sprintf("dead letter %d: redriven", s.letter.ID)}
	t, err := s.seeStatus(ctx, s.doomed.ID, scheduled)
	if err != nil {
		return saw, err
	}
	// The handler answers the api before it is done itself.
	event := createdEvent(t.ID)
	var c count
	err = see(ctx, "one more delivery, which is handled", func(ctx context.Context) (string, bool, error) {
		c, err = s.count(event)
		return fmt.Sprintf("%+v", c), c == count{Deliveries: maxDeliver + 1, Handled: 1}, err
	})
	if err != nil {
		return saw, err
	}
	letters, err := s.deadLetters(ctx)
	if err != nil {
		return saw, err
	}
	saw = append(saw,
		fmt.Sprintf("event %s: deliveries %d, handled %d", event, c.Deliveries, c.Handled),
		fmt.Sprintf("todo %s: %s for %s", t.ID, t.Status, t.Slot.Start.Format(time.RFC3339)),
		fmt.Sprintf("dead letters left: %d", len(letters)))
	if len(letters) != 0 {
		return saw, mismatch("no dead letter", letters)
	}
	return saw, nil
}

func (s *Story) killed(ctx context.Context) ([]string, error) {
	before, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	if len(before) == 0 {
		return nil, mismatch("the todos of the steps before", "none")
	}
	pid := s.Todo.Bolt.PID()
	s.Todo.Bolt.Kill()
	saw := []string{fmt.Sprintf("before: %d todos; dapr-bolt, process %d: killed", len(before), pid)}
	if err := s.Todo.Bolt.Restart(ctx); err != nil {
		return saw, err
	}
	var after []todo
	err = see(ctx, "the api to list todos again", func(ctx context.Context) (string, bool, error) {
		after, err = s.list(ctx)
		return "", true, err
	})
	if err != nil {
		return saw, err
	}
	saw = append(saw, fmt.Sprintf("after: %d todos; dapr-bolt is process %d", len(after), s.Todo.Bolt.PID()))
	for _, t := range after {
		saw = append(saw, fmt.Sprintf("todo %s: %q, %s", t.ID, t.Title, t.Status))
	}
	if !reflect.DeepEqual(before, after) {
		return saw, mismatch(fmt.Sprintf("the same as before: %+v", before), fmt.Sprintf("%+v", after))
	}
	return saw, nil
}

// resubscribed goes through both apps' subscriptions: the scheduler must hear of the
// todo, and the api of its slot.
func (s *Story) resubscribed(ctx context.Context) ([]string, error) {
	began := time.Now()
	saw, t, err := s.createSoon(ctx, "Survive a crash")
	if err != nil {
		return saw, err
	}
	return append(saw, fmt.Sprintf("todo %s: %s by event %s, after %s", t.ID, t.Status, t.DecidedBy, time.Since(began).Round(time.Millisecond))), nil
}
