package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// quickstart is a todo service of one of the quick starts, with its sidecar.
type quickstart struct {
	*env
	sidecar *harness.Daprd
	app     *harness.App
}

// quickstart starts a program that listens on $APP_PORT; settings are those of the pub/sub.
func (e *env) quickstart(program string, args []string, settings ...string) *quickstart {
	e.t.Helper()
	port, err := e.FreePort()
	require.NoError(e.t, err)
	d := e.daprd(harness.DaprdOptions{AppID: "todo", AppPort: port, Args: harness.AppHealthChecks}, harness.NewComponent("statestore", "state.bolt"), pubsubComponent(settings...))
	app, err := e.StartApp(harness.AppOptions{Name: "todo", Path: program, Args: args, Port: port, Env: []string{
		"APP_PORT=" + strconv.Itoa(port), "DAPR_HTTP_PORT=" + strconv.Itoa(d.HTTPPort), "DAPR_GRPC_PORT=" + strconv.Itoa(d.GRPCPort),
	}})
	require.NoError(e.t, err)
	e.t.Cleanup(app.Kill) // neither language ends with status 0 when it is asked to
	require.NoError(e.t, app.WaitReady(e.t.Context()))
	e.ready(d)
	return &quickstart{env: e, sidecar: d, app: app}
}

func (q *quickstart) put(id, todo string) harness.Response {
	q.t.Helper()
	r, err := q.app.Call(q.t.Context(), http.MethodPut, "/todos/"+id, []byte(todo), "Content-Type", "application/json")
	require.NoError(q.t, err)
	require.NoError(q.t, r.OK())
	return r
}

// booked waits until so many slots of the day are.
func (q *quickstart) booked(day string, n int) {
	q.t.Helper()
	q.eventually(func(c *assert.CollectT) {
		var slots struct{ Booked int }
		require.NoError(c, q.app.Get(q.t.Context(), "/slots/"+day, &slots))
		require.Equal(c, n, slots.Booked)
	})
}

func TestTheQuickStarts(t *testing.T) {
	t.Parallel()
	t.Run("Python", func(t *testing.T) {
		t.Parallel()
		python := pythonInterpreter(t)
		checkout, err := harness.FindCheckout()
		require.NoError(t, err)
		newEnv(t).playQuickstart(python, checkout.Path("cmd", "todo-python", "app.py"))
	})
	t.Run("JavaScript", func(t *testing.T) {
		t.Parallel()
		checkout, err := harness.FindCheckout()
		require.NoError(t, err)
		node, modules := nodeWithModules(t)
		e := newEnv(t)
		// A module finds its packages beside itself.
		dir := e.Dir("javascript")
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.Symlink(modules, e.Dir("javascript", "node_modules")))
		for _, name := range []string{"app.js", "package.json"} {
			text, err := os.ReadFile(checkout.Path("cmd", "todo-javascript", name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(e.Dir("javascript", name), text, 0o644))
		}
		e.playQuickstart(node, e.Dir("javascript", "app.js"))
	})
}

// playQuickstart does what the quick starts' texts promise.
func (e *env) playQuickstart(program string, args ...string) {
	q := e.quickstart(program, args, "maxDeliver", "2", "backOff", "100ms")
	ctx := q.t.Context()

	// A todo that is created again, as by a client that did not hear the answer, is booked once.
	for range 3 {
		q.put("1", `{"title":"Water the plants","day":"monday"}`)
	}
	q.put("2", `{"title":"Buy bread","day":"monday"}`)
	q.booked("monday", 2)
	q.settled()
	require.Equal(q.t, uint64(2), q.topic("todos").Duplicates)

	// An event that was let through twice, as after the dedup window: what its handler writes takes effect once.
	for _, id := range []string{"first", "again"} {
		require.NoError(q.t, q.sidecar.Publish(ctx, pubsubName, "todos", map[string]string{"id": "3", "day": "tuesday"},
			map[string]string{"eventID": id, "cloudevent.id": "the same"}))
	}
	q.settled()
	q.booked("tuesday", 1)

	// ETags: a todo that is not there, and one that is.
	r, err := q.app.Call(ctx, http.MethodPost, "/todos/nobody/done", nil)
	require.NoError(q.t, err)
	require.Equal(q.t, http.StatusNotFound, r.Status)
	var todo struct{ Done bool }
	r, err = q.app.Call(ctx, http.MethodPost, "/todos/1/done", nil)
	require.NoError(q.t, err)
	require.NoError(q.t, r.OK())
	require.NoError(q.t, r.JSON(&todo))
	require.True(q.t, todo.Done)

	// What cannot be booked is a dead letter that says so in the app's own words, and comes again when it is redriven.
	q.put("4", `{"title":"When?"}`)
	letter := q.dead(1)[0]
	require.Equal(q.t, pubsub.ReasonMaxDeliver, letter.Reason)
	require.Equal(q.t, "created-4", letter.Event.ID)
	// The handler counts by the CloudEvent's id: it is the same if the event is published again after the dedupWindow.
	var shown admin.DeadLetter
	require.NoError(q.t, q.bolt.Command(ctx, &shown, "dead-letters", "show", strconv.FormatUint(letter.ID, 10)))
	var cloudEvent struct{ ID string }
	require.NoError(q.t, json.Unmarshal(shown.Event.Data, &cloudEvent))
	require.Equal(q.t, "created-4", cloudEvent.ID)
	require.Contains(q.t, cause.Of(letter.LastError), "todo 4 has no day")
	require.NoError(q.t, q.bolt.Command(ctx, nil, "dead-letters", "redrive", strconv.FormatUint(letter.ID, 10)))
	q.eventually(func(c *assert.CollectT) {
		letters := q.deadLetters("--all")
		require.Len(c, letters, 1)
		require.Equal(c, 1, letters[0].Redriven)
	})
}
