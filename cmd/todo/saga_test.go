package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/scheduler"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
)

// saga is both services on one broker that has no idea of ids: each publish is delivered several times.
type saga struct {
	t         *testing.T
	broker    *fake.Broker
	api       *todo.Service
	scheduler *scheduler.Service
	relay     *todo.Relay
	delivered int
}

func newSaga(t *testing.T, slotsPerDay int, faults *scheduler.Faults) *saga {
	quiet := slog.New(slog.DiscardHandler)
	s := &saga{t: t, broker: &fake.Broker{}}
	state := &fake.Store{}
	s.relay = todo.NewRelay(todo.RelayOptions{Store: state, Publisher: s.broker, Logger: quiet})
	s.api = todo.NewService(todo.Options{Store: state, Relay: s.relay, Logger: quiet})
	var err error
	s.scheduler, err = scheduler.New(scheduler.Options{
		Store: &fake.Store{}, Publisher: s.broker, SlotsPerDay: slotsPerDay, Faults: faults, Logger: quiet,
	})
	require.NoError(t, err)
	return s
}

func (s *saga) create(title string, due time.Time) string {
	v, _, err := s.api.Create(s.t.Context(), todo.Draft{Title: title, Due: due.Format(time.RFC3339)}, "")
	require.NoError(s.t, err)
	return v.Todo.ID
}

// run publishes and delivers, each event three times, until nothing new comes; it returns what handlers refused.
func (s *saga) run() (refused error) {
	handlers := map[string]event.Handler{
		event.TaskCreated:   s.scheduler.TaskCreated,
		event.TaskCompleted: s.scheduler.TaskCompleted,
		event.TaskDeleted:   s.scheduler.TaskDeleted,
		event.TaskScheduled: s.api.TaskScheduled,
		event.TaskRejected:  s.api.TaskRejected,
	}
	ctx, stop := context.WithCancel(s.t.Context())
	go s.relay.Run(ctx)
	synctest.Wait()
	stop()
	synctest.Wait()
	// A duplicate delivery makes the scheduler answer again; that answer is delivered like any other.
	for events := s.broker.Events(); s.delivered < len(events); events = s.broker.Events() {
		e := events[s.delivered]
		s.delivered++
		for range 3 {
			refused = errors.Join(refused, handlers[e.Topic](s.t.Context(), fake.Deliver(e)))
		}
	}
	return refused
}

func (s *saga) todo(id string) todo.Todo {
	v, err := s.api.Get(s.t.Context(), id)
	require.NoError(s.t, err)
	return v.Todo
}

func (s *saga) booked(date time.Time) int {
	day, err := s.scheduler.Day(s.t.Context(), date)
	require.NoError(s.t, err)
	return len(day.Bookings)
}

func TestSaga(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSaga(t, 2, nil)
		tomorrow := time.Now().AddDate(0, 0, 1)
		one, two := s.create("one", tomorrow), s.create("two", tomorrow)
		late := s.create("late", time.Now().Add(-time.Hour))
		require.NoError(t, s.run())
		require.Equal(t, todo.Scheduled, s.todo(one).Status)
		require.Equal(t, todo.Scheduled, s.todo(two).Status)
		require.NotEqual(t, s.todo(one).Slot, s.todo(two).Slot)
		require.Equal(t, todo.Rejected, s.todo(late).Status)
		require.Contains(t, s.todo(late).Reason, "in the past")

		three := s.create("three", tomorrow)
		require.NoError(t, s.run())
		require.Equal(t, todo.Rejected, s.todo(three).Status)
		require.Contains(t, s.todo(three).Reason, "no slot left")
		require.Equal(t, 2, s.booked(tomorrow))

		_, err := s.api.Complete(t.Context(), one, "")
		require.NoError(t, err)
		require.NoError(t, s.api.Delete(t.Context(), two, ""))
		require.NoError(t, s.run())
		require.Equal(t, 0, s.booked(tomorrow))
		four := s.create("four", tomorrow)
		require.NoError(t, s.run())
		require.Equal(t, todo.Scheduled, s.todo(four).Status)
	})
}

func TestSagaOfATodoCompletedBeforeItIsBooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSaga(t, 1, nil)
		tomorrow := time.Now().AddDate(0, 0, 1)
		id := s.create("quick", tomorrow)
		_, err := s.api.Complete(t.Context(), id, "")
		require.NoError(t, err)
		require.NoError(t, s.run())
		require.Equal(t, todo.Completed, s.todo(id).Status)
		require.Equal(t, 0, s.booked(tomorrow))
	})
}

func TestSagaGoesOnOnceTheFaultIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &scheduler.Faults{}
		faults.FailTitlesContaining("poison")
		s := newSaga(t, 1, faults)
		id := s.create("Poison pill", time.Now().AddDate(0, 0, 1))
		require.ErrorContains(t, s.run(), fmt.Sprintf("injected fault: title %q", "Poison pill"))
		require.Equal(t, todo.Pending, s.todo(id).Status)

		faults.FailTitlesContaining("")
		s.delivered = 0
		require.NoError(t, s.run())
		require.Equal(t, todo.Scheduled, s.todo(id).Status)
	})
}
