package event_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

func TestNewIsDeterministic(t *testing.T) {
	one, err := event.New(event.TaskDeleted, "t1", event.Deleted{TodoID: "t1"})
	require.NoError(t, err)
	two, err := event.New(event.TaskDeleted, "t1", event.Deleted{TodoID: "t1"})
	require.NoError(t, err)
	require.Equal(t, one, two)
	other, err := event.New(event.TaskDeleted, "t2", event.Deleted{TodoID: "t2"})
	require.NoError(t, err)
	require.NotEqual(t, one.ID, other.ID)
}

func TestDecode(t *testing.T) {
	data := func(v string) event.Delivery {
		return event.Delivery{ID: "e", Topic: "topic", Data: json.RawMessage(v)}
	}
	created, err := event.Decode[event.Created](data(`{"todoId":"t1","title":"a","due":"2030-01-01T00:00:00Z"}`))
	require.NoError(t, err)
	require.Equal(t, event.Created{TodoID: "t1", Title: "a", Due: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}, created)

	decode := map[string]func(event.Delivery) error{
		"created":   func(d event.Delivery) error { _, err := event.Decode[event.Created](d); return err },
		"completed": func(d event.Delivery) error { _, err := event.Decode[event.Completed](d); return err },
		"deleted":   func(d event.Delivery) error { _, err := event.Decode[event.Deleted](d); return err },
		"scheduled": func(d event.Delivery) error { _, err := event.Decode[event.Scheduled](d); return err },
		"rejected":  func(d event.Delivery) error { _, err := event.Decode[event.Rejected](d); return err },
	}
	for _, c := range []struct{ kind, data, field string }{
		{"created", `{"title":"a","due":"2030-01-01T00:00:00Z"}`, "data.todoId"},
		{"created", `{"todoId":"t1","due":"2030-01-01T00:00:00Z"}`, "data.title"},
		{"created", `{"todoId":"t1","title":"a"}`, "data.due"},
		{"created", `{"todoId":"t1","title":"a","due":"soon"}`, "soon"},
		{"created", `"text"`, "data"},
		{"created", ``, "data"},
		{"completed", `{}`, "data.todoId"},
		{"deleted", `{}`, "data.todoId"},
		{"scheduled", `{"todoId":"t1"}`, "data.slot.start"},
		{"scheduled", `{"todoId":"t1","slot":{"start":"2030-01-01T00:00:00Z"}}`, "data.slot.end"},
		{"rejected", `{"todoId":"t1"}`, "data.reason"},
	} {
		err := decode[c.kind](data(c.data))
		require.ErrorIs(t, err, event.ErrMalformed, "%s %s", c.kind, c.data)
		require.ErrorContains(t, err, c.field)
	}
	noID := data(`{"todoId":"t1"}`)
	noID.ID = ""
	require.ErrorIs(t, decode["deleted"](noID), event.ErrMalformed)
}
