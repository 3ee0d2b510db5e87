package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

func TestCreateAndShow(t *testing.T) {
	e := newEnv(t, 1)
	made := e.call(e.api, "POST", "/todos", `{"title":" milk ","due":"2030-01-02"}`)
	require.Equal(t, http.StatusCreated, made.StatusCode)
	got := e.call(e.api, "GET", made.Header.Get("Location"), "")
	require.Regexp(t, `^".+"$`, got.Header.Get("ETag"))
	require.Equal(t, made.Header.Get("ETag"), got.Header.Get("ETag"))
	require.Equal(t, "milk", got.todo(t).Title)
	require.Equal(t, pending, got.todo(t).Status)
	require.Equal(t, time.Date(2030, 1, 2, 23, 59, 59, 0, time.UTC), got.todo(t).Due, "a date is the end of that day")
	require.Equal(t, []string{"task-created." + got.todo(t).ID}, e.dapr.eventIDs())
	require.Equal(t, http.StatusNotFound, e.call(e.api, "GET", "/todos/nobody", "").StatusCode)
}

func TestInputIsChecked(t *testing.T) {
	e := newEnv(t, 1)
	for _, c := range []struct {
		body   string
		status int
		says   []string
	}{
		{`{"title":" ","due":"2030-01-01"}`, 400, []string{`title is \" \", want 1 to 200 characters`}},
		{`{"title":"` + strings.Repeat("ü", 201) + `","due":"2030-01-01"}`, 400, []string{`title is \"` + strings.Repeat("ü", 60) + `\", want`}},
		{`{"title":"a","due":"soon"}`, 400, []string{`due is \"soon\", want`, `RFC 3339`}},
		{`{"title":"a","due":"9999-12-31T23:59:59-01:00"}`, 400, []string{`due is`}},
		{`{"title":3,"due":"2030-01-01"}`, 400, []string{`number`, `title`, `string`}},
		{`{"titel":"a"}`, 400, []string{"titel"}},
		{`{"title":"a"`, 400, []string{"JSON"}},
		{``, 400, []string{"JSON object"}},
		{`{"title":"` + strings.Repeat("x", 70_000) + `"}`, 413, []string{"65536"}},
	} {
		a := e.call(e.api, "POST", "/todos", c.body)
		require.Equal(t, c.status, a.StatusCode, c.body)
		for _, says := range c.says {
			require.Contains(t, a.body, says)
		}
	}
	require.Empty(t, e.dapr.todos())
	require.Empty(t, e.dapr.eventIDs())
}

func TestARequestWithAKeyIsOneTodo(t *testing.T) {
	e := newEnv(t, 1)
	ids := make([]string, 8)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i] = e.post("milk", tomorrow, "k").todo(t).ID })
	}
	all.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Len(t, e.dapr.todos(), 1)
	require.Equal(t, http.StatusUnprocessableEntity, e.post("bread", tomorrow, "k").StatusCode, "another request with the key")

	// Also after a change, and when the store has forgotten its idempotency key.
	etag := e.call(e.api, "GET", "/todos/"+ids[0], "").Header.Get("ETag")
	e.call(e.api, "PUT", "/todos/"+ids[0], `{"title":"oat milk"}`, "If-Match", etag).todo(t)
	clear(e.dapr.done)
	again := e.post("milk", tomorrow, "k").todo(t)
	require.Equal(t, ids[0], again.ID)
	require.Equal(t, "oat milk", again.Title)
	require.NotEqual(t, ids[0], e.post("milk", tomorrow, "").todo(t).ID)

	require.Equal(t, http.StatusNoContent, e.call(e.api, "DELETE", "/todos/"+ids[0], "").StatusCode)
	before := len(e.dapr.eventIDs())
	require.Equal(t, http.StatusGone, e.post("milk", tomorrow, "k").StatusCode)
	require.Len(t, e.dapr.eventIDs(), before)
}

func TestEdit(t *testing.T) {
	e := newEnv(t, 1)
	made := e.post("milk", tomorrow, "")
	path, etag := made.Header.Get("Location"), made.Header.Get("ETag")
	require.Equal(t, http.StatusPreconditionRequired, e.call(e.api, "PUT", path, `{"title":"bread"}`).StatusCode)
	require.Equal(t, http.StatusPreconditionRequired, e.call(e.api, "PUT", path, `{"title":"bread"}`, "If-Match", "*").StatusCode)
	edited := e.call(e.api, "PUT", path, `{"title":"bread"}`, "If-Match", etag)
	require.Equal(t, "bread", edited.todo(t).Title)
	require.NotEqual(t, etag, edited.Header.Get("ETag"))

	lost := e.call(e.api, "PUT", path, `{"title":"cheese"}`, "If-Match", etag)
	require.Equal(t, http.StatusConflict, lost.StatusCode, "an update that would be lost")
	require.Contains(t, lost.body, "has changed since it was read")
	require.Equal(t, http.StatusBadRequest, e.call(e.api, "PUT", path, `{}`, "If-Match", edited.Header.Get("ETag")).StatusCode)
	require.Equal(t, http.StatusNotFound, e.call(e.api, "PUT", "/todos/nobody", `{"title":"a"}`, "If-Match", etag).StatusCode)

	// Two writers at once: the store tells.
	next := edited.Header.Get("ETag")
	e.dapr.fault(first("SaveState", func() { e.call(e.api, "PUT", path, `{"title":"cheese"}`, "If-Match", next).todo(t) }), nil)
	require.Equal(t, http.StatusConflict, e.call(e.api, "PUT", path, `{"title":"ham"}`, "If-Match", next).StatusCode)
	require.Equal(t, "cheese", e.call(e.api, "GET", path, "").todo(t).Title)
}

func TestCompleteAndDelete(t *testing.T) {
	e := newEnv(t, 1)
	made := e.post("milk", tomorrow, "")
	path, etag := made.Header.Get("Location"), made.Header.Get("ETag")
	require.Equal(t, http.StatusConflict, e.call(e.api, "POST", path+"/complete", "", "If-Match", `"stale"`).StatusCode)
	require.Equal(t, completed, e.call(e.api, "POST", path+"/complete", "", "If-Match", etag).todo(t).Status)
	require.Equal(t, completed, e.call(e.api, "POST", path+"/complete", "", "If-Match", etag).todo(t).Status, "again")
	require.Equal(t, http.StatusNotFound, e.call(e.api, "POST", "/todos/nobody/complete", "").StatusCode)

	require.Equal(t, http.StatusConflict, e.call(e.api, "DELETE", path, "", "If-Match", `"stale"`).StatusCode)
	for range 2 {
		require.Equal(t, http.StatusNoContent, e.call(e.api, "DELETE", path, "", "If-Match", "*").StatusCode)
	}
	require.Equal(t, http.StatusGone, e.call(e.api, "GET", path, "").StatusCode)
	require.Equal(t, http.StatusGone, e.call(e.api, "PUT", path, `{"title":"a"}`, "If-Match", etag).StatusCode)
	require.Equal(t, http.StatusGone, e.call(e.api, "POST", path+"/complete", "").StatusCode)
	require.Equal(t, http.StatusNotFound, e.call(e.api, "DELETE", "/todos/nobody", "").StatusCode)

	late := e.post("late", yesterday, "").todo(t)
	require.Empty(t, e.run())
	require.Equal(t, http.StatusConflict, e.call(e.api, "POST", "/todos/"+late.ID+"/complete", "").StatusCode, "it was rejected")
}

// An edit comes between the moment when the answer's handler reads the todo and the moment when it writes it.
func TestTheSchedulersAnswerRacesAnEdit(t *testing.T) {
	e := newEnv(t, 1)
	made := e.post("milk", tomorrow, "")
	require.Equal(t, http.StatusOK, e.deliver(e.dapr.published[0]).StatusCode)
	e.dapr.fault(first("SaveState", func() {
		e.call(e.api, "PUT", made.Header.Get("Location"), `{"title":"bread"}`, "If-Match", made.Header.Get("ETag")).todo(t)
	}), nil)
	require.Equal(t, http.StatusOK, e.deliver(e.dapr.published[1]).StatusCode)
	got := e.todo(made.todo(t).ID)
	require.Equal(t, "bread", got.Title)
	require.Equal(t, scheduled, got.Status)
}

func TestListPages(t *testing.T) {
	e := newEnv(t, 1)
	type page struct {
		Todos []todo `json:"todos"`
		Next  string `json:"next"`
	}
	list := func(query string) (p page) {
		a := e.call(e.api, "GET", "/todos?"+query, "")
		require.Equal(t, http.StatusOK, a.StatusCode, a.body)
		require.NoError(t, json.Unmarshal([]byte(a.body), &p))
		return p
	}
	require.Equal(t, page{Todos: []todo{}}, list(""))
	made := map[string]bool{}
	for i := range pageSize + 2 {
		made[e.post(fmt.Sprint("todo ", i), tomorrow, "").todo(t).ID] = true
	}
	require.Empty(t, e.run(), "the scheduler's records are in the same store")
	for id := range made {
		require.Equal(t, http.StatusNoContent, e.call(e.api, "DELETE", "/todos/"+id, "").StatusCode)
		delete(made, id)
		break
	}
	first := list("")
	require.Len(t, first.Todos, pageSize)
	rest := list("token=" + first.Next)
	require.Len(t, rest.Todos, 1)
	require.Empty(t, rest.Next)
	for _, got := range append(first.Todos, rest.Todos...) {
		require.True(t, made[got.ID])
		delete(made, got.ID)
	}
}

func TestTheSidecarIsAway(t *testing.T) {
	e := newEnv(t, 1)
	e.dapr.fault(failing("SaveState", codes.Unavailable), nil)
	a := e.post("milk", tomorrow, "")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Contains(t, a.body, "fault in SaveState")
	e.dapr.fault(failing("GetState", codes.Internal), nil)
	require.Equal(t, http.StatusInternalServerError, e.call(e.api, "GET", "/todos/x", "").StatusCode)
	require.Equal(t, http.StatusOK, e.call(e.api, "GET", "/healthz", "").StatusCode)
}
