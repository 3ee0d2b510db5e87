package todo_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
)

// app is one process of the api on a store and a broker that outlive it.
type app struct {
	*todo.Service
	relay *todo.Relay
}

func start(s *fake.Store, b *fake.Broker) app {
	relay := todo.NewRelay(todo.RelayOptions{Store: s, Publisher: b, Logger: slog.New(slog.DiscardHandler)})
	return app{todo.NewService(todo.Options{Store: s, Relay: relay, Logger: slog.New(slog.DiscardHandler)}), relay}
}

// publish runs the relay until there is nothing left for it to do.
func (a app) publish(t *testing.T) {
	a.publishFor(t, 0)
}

func (a app) publishFor(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	go a.relay.Run(ctx)
	time.Sleep(d)
	synctest.Wait()
	cancel()
	synctest.Wait()
}

var milk = todo.Draft{Title: "milk", Due: "2030-01-01"}

func create(t *testing.T, a app, d todo.Draft) todo.Version {
	v, created, err := a.Create(t.Context(), d, "")
	require.NoError(t, err)
	require.True(t, created)
	return v
}

func TestCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		v := create(t, a, todo.Draft{Title: " milk ", Due: "2030-01-01T10:00:00+02:00", Notes: "two"})
		require.Equal(t, todo.Todo{
			ID: v.Todo.ID, Title: "milk", Notes: "two", Due: time.Date(2030, 1, 1, 8, 0, 0, 0, time.UTC),
			Status: todo.Pending, CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC(),
		}, v.Todo)
		got, err := a.Get(t.Context(), v.Todo.ID)
		require.NoError(t, err)
		require.Equal(t, v, got)

		a.publish(t)
		require.Len(t, b.Events(), 1)
		e := b.Events()[0]
		require.Equal(t, event.TaskCreated, e.Topic)
		content, err := event.Decode[event.Created](fake.Deliver(e))
		require.NoError(t, err)
		require.Equal(t, event.Created{TodoID: v.Todo.ID, Title: "milk", Due: v.Todo.Due}, content)
	})
}

func TestDateMeansTheEndOfThatDay(t *testing.T) {
	v := create(t, start(&fake.Store{}, &fake.Broker{}), milk)
	require.Equal(t, time.Date(2030, 1, 1, 23, 59, 59, 0, time.UTC), v.Todo.Due)
}

func TestInputIsChecked(t *testing.T) {
	s := &fake.Store{}
	a := start(s, &fake.Broker{})
	for _, c := range []struct {
		draft todo.Draft
		key   string
		field string
	}{
		{draft: todo.Draft{Title: "", Due: "2030-01-01"}, field: "title"},
		{draft: todo.Draft{Title: " \t ", Due: "2030-01-01"}, field: "title"},
		{draft: todo.Draft{Title: strings.Repeat("ü", 201), Due: "2030-01-01"}, field: "title"},
		{draft: todo.Draft{Title: "a", Due: ""}, field: "due"},
		{draft: todo.Draft{Title: "a", Due: "2030-02-30"}, field: "due"},
		{draft: todo.Draft{Title: "a", Due: "soon"}, field: "due"},
		{draft: todo.Draft{Title: "a", Due: "9999-12-31T23:59:59-01:00"}, field: "due"},
		{draft: todo.Draft{Title: "a", Due: "2030-01-01", Notes: strings.Repeat("x", 4001)}, field: "notes"},
		{draft: milk, key: "two words", field: "Idempotency-Key"},
		{draft: milk, key: strings.Repeat("k", 201), field: "Idempotency-Key"},
	} {
		_, _, err := a.Create(t.Context(), c.draft, c.key)
		var field *invalid.Field
		require.ErrorAs(t, err, &field, "%+v", c)
		require.Equal(t, c.field, field.Name)
		require.NotEmpty(t, field.Allowed)
	}
	require.Empty(t, s.Keys())
	create(t, a, todo.Draft{Title: strings.Repeat("ü", 200), Due: "2030-01-01", Notes: strings.Repeat("x", 4000)})
}

func TestIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		first, created, err := a.Create(t.Context(), milk, "k")
		require.NoError(t, err)
		require.True(t, created)
		completed, err := a.Complete(t.Context(), first.Todo.ID, "")
		require.NoError(t, err)

		again, created, err := a.Create(t.Context(), milk, "k")
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, completed, again, "the todo as it is now")

		_, _, err = a.Create(t.Context(), todo.Draft{Title: "other", Due: "2030-01-01"}, "k")
		require.ErrorIs(t, err, todo.ErrKeyReused)

		require.NoError(t, a.Delete(t.Context(), first.Todo.ID, ""))
		_, _, err = a.Create(t.Context(), milk, "k")
		require.ErrorIs(t, err, todo.ErrGone)

		a.publish(t)
		require.Equal(t, []string{"task-created." + first.Todo.ID, "task-completed." + first.Todo.ID}, b.IDs())
	})
}

func TestRequestRecordEnds(t *testing.T) {
	s := &fake.Store{}
	var ttl time.Duration
	s.BeforeApply = func(c store.Change) error {
		for _, w := range c.Writes {
			if strings.HasPrefix(w.Key, "request/") {
				ttl = w.TTL
			}
		}
		return nil
	}
	_, _, err := start(s, &fake.Broker{}).Create(t.Context(), milk, "k")
	require.NoError(t, err)
	require.Equal(t, 24*time.Hour, ttl)
}

func TestRacingSubmissionsMakeOneTodo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		// Two processes, so that nothing but the store can tell one of the other.
		apps := []app{start(s, b), start(s, b)}
		var wg sync.WaitGroup
		ids := make(chan string, 10)
		for i := range cap(ids) {
			wg.Go(func() {
				v, _, err := apps[i%2].Create(t.Context(), milk, "k")
				if err == nil {
					ids <- v.Todo.ID
				}
			})
		}
		wg.Wait()
		require.Len(t, ids, cap(ids))
		first := <-ids
		for range cap(ids) - 1 {
			require.Equal(t, first, <-ids)
		}
		todos, err := apps[0].List(t.Context(), "", 100)
		require.NoError(t, err)
		require.Len(t, todos, 1)
	})
}

func TestLostAnswerOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		s.AfterApply = func(store.Change) error { return store.ErrUnavailable }
		a := start(s, b)
		_, _, err := a.Create(t.Context(), milk, "k")
		require.ErrorIs(t, err, store.ErrUnavailable)
		s.AfterApply = nil

		v, created, err := a.Create(t.Context(), milk, "k")
		require.NoError(t, err)
		require.False(t, created)
		a.publish(t)
		require.Equal(t, []string{"task-created." + v.Todo.ID}, b.IDs())
	})
}

func TestAnswerLostBehindAConflict(t *testing.T) {
	// A store whose transaction took place may still answer with a conflict, when its caller asks again by itself.
	s := &fake.Store{}
	s.AfterApply = func(store.Change) error {
		s.AfterApply = nil
		return store.ErrConflict
	}
	a := start(s, &fake.Broker{})
	_, created, err := a.Create(t.Context(), milk, "k")
	require.NoError(t, err)
	require.True(t, created)
	todos, err := a.List(t.Context(), "", 100)
	require.NoError(t, err)
	require.Len(t, todos, 1)
}

func TestEdit(t *testing.T) {
	s := &fake.Store{}
	a := start(s, &fake.Broker{})
	v := create(t, a, milk)
	title, notes, empty := "oat milk", "one", " "
	edited, err := a.Edit(t.Context(), v.Todo.ID, v.ETag, todo.Patch{Title: &title})
	require.NoError(t, err)
	require.Equal(t, title, edited.Todo.Title)
	require.NotEqual(t, v.ETag, edited.ETag)

	_, err = a.Edit(t.Context(), v.Todo.ID, v.ETag, todo.Patch{Notes: &notes})
	require.ErrorIs(t, err, todo.ErrVersion)

	var field *invalid.Field
	_, err = a.Edit(t.Context(), v.Todo.ID, edited.ETag, todo.Patch{Title: &empty})
	require.ErrorAs(t, err, &field)
	_, err = a.Edit(t.Context(), v.Todo.ID, edited.ETag, todo.Patch{})
	require.ErrorAs(t, err, &field)

	// Another writer comes between the read and the write.
	s.BeforeApply = func(store.Change) error { s.Touch("todo/" + v.Todo.ID); return nil }
	_, err = a.Edit(t.Context(), v.Todo.ID, edited.ETag, todo.Patch{Notes: &notes})
	require.ErrorIs(t, err, todo.ErrVersion)
	got, err := a.Get(t.Context(), v.Todo.ID)
	require.NoError(t, err)
	require.Equal(t, edited.Todo, got.Todo)

	_, err = a.Edit(t.Context(), "nobody", "1", todo.Patch{Notes: &notes})
	require.ErrorIs(t, err, todo.ErrNotFound)
}

func TestComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		v := create(t, a, milk)
		_, err := a.Complete(t.Context(), v.Todo.ID, "stale")
		require.ErrorIs(t, err, todo.ErrVersion)

		// Without a version the caller wants it done whoever else writes.
		touched := false
		s.BeforeApply = func(store.Change) error {
			if !touched {
				touched = true
				s.Touch("todo/" + v.Todo.ID)
			}
			return nil
		}
		done, err := a.Complete(t.Context(), v.Todo.ID, "")
		require.NoError(t, err)
		require.Equal(t, todo.Completed, done.Todo.Status)
		require.WithinDuration(t, time.Now(), done.Todo.CompletedAt, time.Second)

		again, err := a.Complete(t.Context(), v.Todo.ID, "")
		require.NoError(t, err)
		require.Equal(t, done, again)
		a.publish(t)
		require.Equal(t, []string{"task-created." + v.Todo.ID, "task-completed." + v.Todo.ID}, b.IDs())

		_, err = a.Complete(t.Context(), "nobody", "")
		require.ErrorIs(t, err, todo.ErrNotFound)
	})
}

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		open, done := create(t, a, milk), create(t, a, milk)
		_, err := a.Complete(t.Context(), done.Todo.ID, "")
		require.NoError(t, err)
		require.ErrorIs(t, a.Delete(t.Context(), open.Todo.ID, "stale"), todo.ErrVersion)
		require.NoError(t, a.Delete(t.Context(), open.Todo.ID, open.ETag))
		require.NoError(t, a.Delete(t.Context(), done.Todo.ID, ""))
		require.ErrorIs(t, a.Delete(t.Context(), done.Todo.ID, ""), todo.ErrNotFound)
		todos, err := a.List(t.Context(), "", 100)
		require.NoError(t, err)
		require.Empty(t, todos)
		a.publish(t)
		require.Contains(t, b.IDs(), "task-deleted."+open.Todo.ID)
		require.NotContains(t, b.IDs(), "task-deleted."+done.Todo.ID, "a completed todo holds no slot")
	})
}

func TestListPages(t *testing.T) {
	a := start(&fake.Store{}, &fake.Broker{})
	var want []string
	for range 120 {
		want = append(want, create(t, a, milk).Todo.ID)
	}
	var got []string
	for after := ""; ; {
		todos, err := a.List(t.Context(), after, 70)
		require.NoError(t, err)
		if len(todos) == 0 {
			break
		}
		for _, one := range todos {
			got = append(got, one.ID)
		}
		after = got[len(got)-1]
	}
	require.Equal(t, want, got, "in the order of creation, none twice")
}

func TestStoreErrorsComeThrough(t *testing.T) {
	s := &fake.Store{}
	a := start(s, &fake.Broker{})
	v := create(t, a, milk)
	broken := errors.New("disk on fire")
	s.BeforeApply = func(store.Change) error { return broken }
	_, _, err := a.Create(t.Context(), milk, "")
	require.ErrorIs(t, err, broken)
	_, err = a.Complete(t.Context(), v.Todo.ID, "")
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, a.Delete(t.Context(), v.Todo.ID, ""), broken)
}
