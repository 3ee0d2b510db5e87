package scheduler_test

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/scheduler"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

var (
	now = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	due = time.Date(2030, 1, 2, 23, 59, 59, 0, time.UTC)
)

func start(t *testing.T, s *fake.Store, b *fake.Broker, slotsPerDay int) *scheduler.Service {
	service, err := scheduler.New(scheduler.Options{
		Store: s, Publisher: b, SlotsPerDay: slotsPerDay,
		Clock: clockwork.NewFakeClockAt(now), Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	return service
}

func created(t *testing.T, id string, due time.Time) event.Delivery {
	e, err := event.New(event.TaskCreated, id, event.Created{TodoID: id, Title: "title of " + id, Due: due})
	require.NoError(t, err)
	return fake.Deliver(e)
}

func completed(t *testing.T, id string) event.Delivery {
	e, err := event.New(event.TaskCompleted, id, event.Completed{TodoID: id, CompletedAt: now})
	require.NoError(t, err)
	return fake.Deliver(e)
}

func deleted(t *testing.T, id string) event.Delivery {
	e, err := event.New(event.TaskDeleted, id, event.Deleted{TodoID: id})
	require.NoError(t, err)
	return fake.Deliver(e)
}

func holders(t *testing.T, s *scheduler.Service, date time.Time) []string {
	day, err := s.Day(t.Context(), date)
	require.NoError(t, err)
	var ids []string
	for i, b := range day.Bookings {
		ids = append(ids, b.TodoID)
		require.True(t, i == 0 || !b.Slot.Start.Before(day.Bookings[i-1].Slot.End), "slots do not overlap")
	}
	return ids
}

func TestBooks(t *testing.T) {
	s, b := &fake.Store{}, &fake.Broker{}
	service := start(t, s, b, 4)
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", due)))
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t2", due)))
	require.Equal(t, []string{"t1", "t2"}, holders(t, service, due))
	require.Equal(t, []string{"task-scheduled.t1", "task-scheduled.t2"}, b.IDs())
	content, err := event.Decode[event.Scheduled](fake.Deliver(b.Events()[1]))
	require.NoError(t, err)
	at := func(hour int) time.Time { return time.Date(2030, 1, 2, hour, 0, 0, 0, time.UTC) }
	require.Equal(t, event.Scheduled{TodoID: "t2", Slot: event.Slot{Start: at(11), End: at(13)}}, content)
}

func TestRejects(t *testing.T) {
	morning := time.Date(2030, 1, 1, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		before []string
		due    time.Time
		reason string
	}{
		"a due date in the past":  {due: now.Add(-time.Second), reason: "due date in the past: 2030-01-01T11:59:59Z"},
		"a day that is full":      {before: []string{"a", "b"}, due: due, reason: "no slot left on 2030-01-02: 2 of 2 booked"},
		"today, later than slots": {before: []string{}, due: morning.Add(14 * time.Hour), reason: ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fake.Broker{}
			service := start(t, &fake.Store{}, b, 2)
			for _, id := range c.before {
				require.NoError(t, service.TaskCreated(t.Context(), created(t, id, c.due)))
			}
			require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", c.due)))
			if c.reason == "" {
				// The slot at 9 has begun, the one at 13 has not; then none is left.
				require.Equal(t, []string{"task-scheduled.t1"}, b.IDs())
				require.NoError(t, service.TaskCreated(t.Context(), created(t, "t2", c.due)))
				c.reason = "no slot left on 2030-01-01: 1 of 2 booked, the others have begun"
			}
			last := b.Events()[len(b.Events())-1]
			require.Equal(t, event.TaskRejected, last.Topic)
			content, err := event.Decode[event.Rejected](fake.Deliver(last))
			require.NoError(t, err)
			require.Equal(t, c.reason, content.Reason)
			require.NotContains(t, holders(t, service, c.due), content.TodoID)
		})
	}
}

func TestDuplicatesBookOnce(t *testing.T) {
	b := &fake.Broker{}
	service := start(t, &fake.Store{}, b, 3)
	other := created(t, "t1", due)
	other.ID = "another event about the same todo"
	for _, d := range []event.Delivery{created(t, "t1", due), created(t, "t1", due), other} {
		require.NoError(t, service.TaskCreated(t.Context(), d))
	}
	require.Equal(t, []string{"t1"}, holders(t, service, due))
	for _, e := range b.Events() {
		require.Equal(t, b.Events()[0], e, "the answer is always the same")
	}
}

func TestCrashBetweenBookingAndPublish(t *testing.T) {
	s, b := &fake.Store{}, &fake.Broker{}
	b.BeforePublish = func(event.Event) error { return errors.New("crashed") }
	require.Error(t, start(t, s, b, 3).TaskCreated(t.Context(), created(t, "t1", due)), "so the event comes again")
	require.Empty(t, b.IDs())
	b.BeforePublish = nil
	next := start(t, s, b, 3)
	require.NoError(t, next.TaskCreated(t.Context(), created(t, "t1", due)))
	require.Equal(t, []string{"task-scheduled.t1"}, b.IDs())
	require.Equal(t, []string{"t1"}, holders(t, next, due))
}

func TestRejectionStands(t *testing.T) {
	s, b := &fake.Store{}, &fake.Broker{}
	service := start(t, s, b, 1)
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", due)))
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t2", due)))
	require.NoError(t, service.TaskCompleted(t.Context(), completed(t, "t1")))
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t2", due)), "a duplicate, now that there is room")
	require.Equal(t, []string{"task-scheduled.t1", "task-rejected.t2", "task-rejected.t2"}, b.IDs())
}

func TestReleases(t *testing.T) {
	for name, release := range map[string]func(*scheduler.Service) error{
		"completed": func(s *scheduler.Service) error { return s.TaskCompleted(t.Context(), completed(t, "t1")) },
		"deleted":   func(s *scheduler.Service) error { return s.TaskDeleted(t.Context(), deleted(t, "t1")) },
	} {
		t.Run(name, func(t *testing.T) {
			s, b := &fake.Store{HonourIdempotencyKeys: true}, &fake.Broker{}
			service := start(t, s, b, 1)
			require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", due)))
			require.NoError(t, release(service))
			require.Empty(t, holders(t, service, due))
			require.NoError(t, service.TaskCreated(t.Context(), created(t, "t2", due)))
			require.NoError(t, release(service), "a duplicate")
			require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", due)), "a duplicate that comes late")
			require.Equal(t, []string{"t2"}, holders(t, service, due))
			require.Equal(t, []string{"task-scheduled.t1", "task-scheduled.t2"}, b.IDs())
		})
	}
}

func TestReleaseOvertakesCreation(t *testing.T) {
	b := &fake.Broker{}
	service := start(t, &fake.Store{}, b, 1)
	require.NoError(t, service.TaskDeleted(t.Context(), deleted(t, "t1")))
	require.NoError(t, service.TaskCreated(t.Context(), created(t, "t1", due)))
	require.Empty(t, holders(t, service, due))
	require.Empty(t, b.IDs())
}

func TestRacingBookingsNeverShareASlot(t *testing.T) {
	s, b := &fake.Store{}, &fake.Broker{}
	services := []*scheduler.Service{start(t, s, b, 5), start(t, s, b, 5)}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			// Each todo twice, by two processes; a conflict that outlasts the retries has the event delivered again.
			d := created(t, fmt.Sprint("t", i/2), due)
			for errors.Is(services[i%2].TaskCreated(t.Context(), d), store.ErrConflict) {
			}
		})
	}
	wg.Wait()
	require.Len(t, holders(t, services[0], due), 5)
	answers := map[string]string{}
	for _, e := range b.Events() {
		if answers[e.TodoID] == "" {
			answers[e.TodoID] = e.ID
		}
		require.Equal(t, answers[e.TodoID], e.ID, "one answer for each todo")
	}
	require.Len(t, answers, 8)
}

func TestSlotsAfterTheirNumberChanged(t *testing.T) {
	s, b := &fake.Store{}, &fake.Broker{}
	require.NoError(t, start(t, s, b, 4).TaskCreated(t.Context(), created(t, "t1", due)))
	service := start(t, s, b, 3)
	for _, id := range []string{"t2", "t3", "t4"} {
		require.NoError(t, service.TaskCreated(t.Context(), created(t, id, due)))
	}
	require.Equal(t, []string{"t1", "t2", "t3"}, holders(t, service, due))
}

func TestMalformedEvents(t *testing.T) {
	service := start(t, &fake.Store{}, &fake.Broker{}, 1)
	d := event.Delivery{ID: "e", Data: []byte(`{}`)}
	require.ErrorIs(t, service.TaskCreated(t.Context(), d), event.ErrMalformed)
	require.ErrorIs(t, service.TaskCompleted(t.Context(), d), event.ErrMalformed)
	require.ErrorIs(t, service.TaskDeleted(t.Context(), d), event.ErrMalformed)
}

func TestOptionsAreChecked(t *testing.T) {
	for _, n := range []int{-1, scheduler.MaxSlotsPerDay + 1} {
		_, err := scheduler.New(scheduler.Options{SlotsPerDay: n})
		require.ErrorContains(t, err, fmt.Sprint(n))
	}
}

func TestSecondReleaseWritesNothing(t *testing.T) {
	s := &fake.Store{}
	service := start(t, s, &fake.Broker{}, 1)
	require.NoError(t, service.TaskCompleted(t.Context(), completed(t, "t1")))
	s.BeforeApply = func(store.Change) error { return errors.New("a write") }
	require.NoError(t, service.TaskCompleted(t.Context(), completed(t, "t1")))
	require.NoError(t, service.TaskDeleted(t.Context(), deleted(t, "t1")))
}
