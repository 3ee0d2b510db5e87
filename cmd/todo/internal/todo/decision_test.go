package todo_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
)

var slot = event.Slot{Start: time.Date(2030, 1, 1, 9, 0, 0, 0, time.UTC), End: time.Date(2030, 1, 1, 10, 0, 0, 0, time.UTC)}

func scheduled(t *testing.T, id string) event.Delivery {
	e, err := event.New(event.TaskScheduled, id, event.Scheduled{TodoID: id, Slot: slot})
	require.NoError(t, err)
	return fake.Deliver(e)
}

func rejected(t *testing.T, id string) event.Delivery {
	e, err := event.New(event.TaskRejected, id, event.Rejected{TodoID: id, Reason: "full"})
	require.NoError(t, err)
	return fake.Deliver(e)
}

func TestScheduled(t *testing.T) {
	s := &fake.Store{}
	a := start(s, &fake.Broker{})
	v := create(t, a, milk)
	require.NoError(t, a.TaskScheduled(t.Context(), scheduled(t, v.Todo.ID)))
	first, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, todo.Scheduled, first.Todo.Status)
	require.Equal(t, &slot, first.Todo.Slot)
	require.Equal(t, "task-scheduled."+v.Todo.ID, first.Todo.DecidedBy)

	require.NoError(t, a.TaskScheduled(t.Context(), scheduled(t, v.Todo.ID)), "a duplicate")
	require.NoError(t, a.TaskRejected(t.Context(), rejected(t, v.Todo.ID)), "a second answer")
	again, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, first, again, "not even a new version")
}

func TestRejectedCompensates(t *testing.T) {
	a := start(&fake.Store{}, &fake.Broker{})
	v := create(t, a, milk)
	require.NoError(t, a.TaskRejected(t.Context(), rejected(t, v.Todo.ID)))
	first, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, todo.Rejected, first.Todo.Status)
	require.Equal(t, "full", first.Todo.Reason)
	require.Nil(t, first.Todo.Slot)

	require.NoError(t, a.TaskRejected(t.Context(), rejected(t, v.Todo.ID)), "a duplicate")
	again, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, first, again)
	_, err = a.Complete(t.Context(), v.Todo.ID, "")
	require.ErrorIs(t, err, todo.ErrStatus)
}

func TestAnswerComesTooLate(t *testing.T) {
	a := start(&fake.Store{}, &fake.Broker{})
	v := create(t, a, milk)
	done, err := a.Complete(t.Context(), v.Todo.ID, "")
	require.NoError(t, err)
	require.NoError(t, a.TaskRejected(t.Context(), rejected(t, v.Todo.ID)))
	got, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, done, got)

	require.NoError(t, a.Delete(t.Context(), v.Todo.ID, ""))
	require.NoError(t, a.TaskScheduled(t.Context(), scheduled(t, v.Todo.ID)))
	_, err = a.Get(t.Context(), v.Todo.ID)
	require.ErrorIs(t, err, todo.ErrNotFound, "an answer does not bring a todo back")
}

func TestAnswerRacesAnEdit(t *testing.T) {
	s := &fake.Store{}
	a := start(s, &fake.Broker{})
	v := create(t, a, milk)
	s.BeforeApply = func(c store.Change) error {
		s.BeforeApply = nil
		title := "oat milk"
		_, err := a.Edit(t.Context(), v.Todo.ID, v.ETag, todo.Patch{Title: &title})
		return err
	}
	require.NoError(t, a.TaskScheduled(t.Context(), scheduled(t, v.Todo.ID)))
	got, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, "oat milk", got.Todo.Title)
	require.Equal(t, todo.Scheduled, got.Todo.Status)
}

func TestAnswerCarriesItsEventIDAsIdempotencyKey(t *testing.T) {
	s := &fake.Store{HonourIdempotencyKeys: true}
	a := start(s, &fake.Broker{})
	v := create(t, a, milk)
	var key string
	s.BeforeApply = func(c store.Change) error { key = c.IdempotencyKey; return nil }
	require.NoError(t, a.TaskScheduled(t.Context(), scheduled(t, v.Todo.ID)))
	require.Equal(t, "todo-api/task-scheduled."+v.Todo.ID, key)
}

func TestMalformedAnswers(t *testing.T) {
	a := start(&fake.Store{}, &fake.Broker{})
	d := event.Delivery{ID: "e", Topic: event.TaskScheduled, Data: []byte(`{"todoId":"x"}`)}
	require.ErrorIs(t, a.TaskScheduled(t.Context(), d), event.ErrMalformed)
	require.ErrorIs(t, a.TaskRejected(t.Context(), d), event.ErrMalformed)
}
