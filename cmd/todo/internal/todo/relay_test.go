package todo_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
)

func TestCrashBetweenStoreAndPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		// This process stores and ends before its relay ever ran.
		v := create(t, start(s, b), milk)
		require.Empty(t, b.IDs())

		next := start(s, b)
		next.publish(t)
		require.Equal(t, []string{"task-created." + v.Todo.ID}, b.IDs())
		start(s, b).publish(t)
		require.Len(t, b.IDs(), 1, "the outbox was cleared")
	})
}

func TestCrashBetweenPublishAndClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		v := create(t, start(s, b), milk)
		s.BeforeApply = func(store.Change) error { return errors.New("crashed") }
		start(s, b).publish(t)
		s.BeforeApply = nil

		start(s, b).publish(t)
		id := "task-created." + v.Todo.ID
		require.Equal(t, []string{id, id}, b.IDs(), "the same id, so that the broker stores one")
		require.Equal(t, b.Events()[0], b.Events()[1])
	})
}

func TestBrokerIsDownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		until := time.Now().Add(12 * time.Second)
		b.BeforePublish = func(event.Event) error {
			if time.Now().Before(until) {
				return errors.New("broker is down")
			}
			return nil
		}
		v := create(t, a, milk)
		_, err := a.Complete(t.Context(), v.Todo.ID, "")
		require.NoError(t, err)
		a.publishFor(t, 11*time.Second)
		require.Empty(t, b.IDs())
		a.publishFor(t, 6*time.Second)
		require.Equal(t, []string{"task-created." + v.Todo.ID, "task-completed." + v.Todo.ID}, b.IDs(), "in order")
	})
}

func TestPublishesAtOnceWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		go a.relay.Run(t.Context())
		synctest.Wait()
		before := time.Now()
		v := create(t, a, milk)
		synctest.Wait()
		require.Equal(t, []string{"task-created." + v.Todo.ID}, b.IDs())
		require.Equal(t, before, time.Now(), "without waiting for the interval")
	})
}

func TestEventAddedWhilePublishingStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		v := create(t, a, milk)
		b.BeforePublish = func(event.Event) error {
			b.BeforePublish = nil
			_, err := a.Complete(t.Context(), v.Todo.ID, "")
			return err
		}
		a.publish(t)
		require.Equal(t, []string{"task-created." + v.Todo.ID, "task-completed." + v.Todo.ID}, b.IDs())
	})
}

func TestOutboxIsBounded(t *testing.T) {
	s := &fake.Store{}
	fill := func(etag string, events int) {
		for shard := range 16 {
			write := store.Write{Key: fmt.Sprint("outbox/", shard), Value: map[string]any{"events": make([]event.Event, events)}, ETag: etag}
			if etag != "" {
				entry, err := s.Get(t.Context(), write.Key)
				require.NoError(t, err)
				write.ETag = entry.ETag
			}
			require.NoError(t, s.Apply(t.Context(), store.Change{Writes: []store.Write{write}}))
		}
	}
	a := start(s, &fake.Broker{})
	fill("", 500)
	_, _, err := a.Create(t.Context(), milk, "")
	require.ErrorIs(t, err, todo.ErrOutboxFull)
	fill("any", 499)
	create(t, a, milk)
}

func TestNothingIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &fake.Store{}, &fake.Broker{}
		a := start(s, b)
		v := create(t, a, milk)
		require.NoError(t, a.Delete(t.Context(), v.Todo.ID, ""))
		a.publish(t)
		require.False(t, slices.ContainsFunc(s.Keys(), func(key string) bool { return strings.HasPrefix(key, "todo/") }))
		require.Len(t, b.IDs(), 2)
	})
}
