package api_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/api"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

func serve(s *fake.Store) http.Handler {
	logger := slog.New(slog.DiscardHandler)
	app := web.New(web.Options{PubSub: "todo-pubsub", Status: api.Status, Logger: logger})
	relay := todo.NewRelay(todo.RelayOptions{Store: s, Publisher: &fake.Broker{}, Logger: logger})
	api.Register(app, todo.NewService(todo.Options{Store: s, Relay: relay, Logger: logger}))
	return app.Handler()
}

func call(h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	var v T
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v), w.Body.String())
	return v
}

// create returns the path and the ETag header of a new todo.
func create(t *testing.T, h http.Handler) (path, etag string) {
	w := call(h, "POST", "/todos", `{"title":"milk","due":"2030-01-01"}`)
	require.Equal(t, http.StatusCreated, w.Code, w.Body.String())
	return w.Header().Get("Location"), w.Header().Get("ETag")
}

func TestCreateAndGet(t *testing.T) {
	h := serve(&fake.Store{})
	path, etag := create(t, h)
	require.Regexp(t, `^".+"$`, etag)
	w := call(h, "GET", path, "")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, etag, w.Header().Get("ETag"))
	got := decode[todo.Todo](t, w)
	require.Equal(t, "/todos/"+got.ID, path)
	require.Equal(t, "milk", got.Title)
	require.Equal(t, todo.Pending, got.Status)
	require.Equal(t, http.StatusNotFound, call(h, "GET", "/todos/nobody", "").Code)
}

func TestCreateRefuses(t *testing.T) {
	s := &fake.Store{}
	h := serve(s)
	for _, c := range []struct {
		body   string
		status int
		says   []string
	}{
		{`{"title":"","due":"2030-01-01"}`, 400, []string{`"field":"title"`, `"value":""`, `"allowed":"1 to 200 characters"`}},
		{`{"title":"a","due":"soon"}`, 400, []string{`"field":"due"`, `"value":"soon"`, `RFC 3339`}},
		{`{"title":3,"due":"2030-01-01"}`, 400, []string{`"field":"title"`, `"value":"number"`}},
		{`{"titel":"a"}`, 400, []string{"titel"}},
		{`{"title":"a"`, 400, []string{"JSON"}},
		{`{"title":"a","due":"2030-01-01"} {}`, 400, []string{"more than one"}},
		{``, 400, []string{"body is empty"}},
		{`{"title":"` + strings.Repeat("x", 70_000) + `"}`, 413, []string{"65536"}},
	} {
		w := call(h, "POST", "/todos", c.body)
		require.Equal(t, c.status, w.Code, c.body)
		for _, says := range c.says {
			require.Contains(t, w.Body.String(), says)
		}
	}
	require.Empty(t, s.Keys())
}

func TestIdempotencyKeyHeader(t *testing.T) {
	h := serve(&fake.Store{})
	body := `{"title":"milk","due":"2030-01-01"}`
	first := call(h, "POST", "/todos", body, "Idempotency-Key", "k")
	require.Equal(t, http.StatusCreated, first.Code)
	require.Empty(t, first.Header().Get("Idempotent-Replayed"))
	again := call(h, "POST", "/todos", body, "Idempotency-Key", "k")
	require.Equal(t, http.StatusOK, again.Code)
	require.Equal(t, "true", again.Header().Get("Idempotent-Replayed"))
	require.Equal(t, first.Body.String(), again.Body.String())
	require.Equal(t, first.Header().Get("Location"), again.Header().Get("Location"))
	require.Len(t, decode[map[string][]todo.Todo](t, call(h, "GET", "/todos", ""))["todos"], 1)

	other := call(h, "POST", "/todos", `{"title":"bread","due":"2030-01-01"}`, "Idempotency-Key", "k")
	require.Equal(t, http.StatusUnprocessableEntity, other.Code)
	require.Equal(t, http.StatusBadRequest, call(h, "POST", "/todos", body, "Idempotency-Key", "two words").Code)

	require.Equal(t, http.StatusNoContent, call(h, "DELETE", first.Header().Get("Location"), "").Code)
	require.Equal(t, http.StatusGone, call(h, "POST", "/todos", body, "Idempotency-Key", "k").Code)
}

func TestEdit(t *testing.T) {
	h := serve(&fake.Store{})
	path, etag := create(t, h)
	require.Equal(t, http.StatusPreconditionRequired, call(h, "PUT", path, `{"title":"bread"}`).Code)
	require.Equal(t, http.StatusPreconditionRequired, call(h, "PUT", path, `{"title":"bread"}`, "If-Match", "*").Code)

	w := call(h, "PUT", path, `{"title":"bread"}`, "If-Match", etag)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "bread", decode[todo.Todo](t, w).Title)
	next := w.Header().Get("ETag")
	require.NotEqual(t, etag, next)

	lost := call(h, "PUT", path, `{"title":"cheese"}`, "If-Match", etag)
	require.Equal(t, http.StatusConflict, lost.Code, "an update that would be lost")
	require.Contains(t, lost.Body.String(), "has changed since")

	inBody := call(h, "PUT", path, fmt.Sprintf(`{"notes":"two","etag":%s}`, next))
	require.Equal(t, http.StatusOK, inBody.Code)
	require.Equal(t, "two", decode[todo.Todo](t, inBody).Notes)
	require.Equal(t, "bread", decode[todo.Todo](t, inBody).Title, "what is not given stays")
	require.Equal(t, http.StatusBadRequest, call(h, "PUT", path, `{}`, "If-Match", inBody.Header().Get("ETag")).Code)
	require.Equal(t, http.StatusNotFound, call(h, "PUT", "/todos/nobody", `{"title":"a"}`, "If-Match", etag).Code)
}

func TestComplete(t *testing.T) {
	h := serve(&fake.Store{})
	path, etag := create(t, h)
	require.Equal(t, http.StatusConflict, call(h, "POST", path+"/complete", "", "If-Match", `"stale"`).Code)
	w := call(h, "POST", path+"/complete", "", "If-Match", etag)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, todo.Completed, decode[todo.Todo](t, w).Status)
	require.Equal(t, http.StatusOK, call(h, "POST", path+"/complete", "").Code, "again")
	require.Equal(t, http.StatusNotFound, call(h, "POST", "/todos/nobody/complete", "").Code)

	rejected, _ := create(t, h)
	id := strings.TrimPrefix(rejected, "/todos/")
	deliver := fmt.Sprintf(`{"id":"e1","data":{"todoId":%q,"reason":"full"}}`, id)
	require.Equal(t, http.StatusOK, call(h, "POST", "/events/task-rejected", deliver).Code)
	require.Equal(t, http.StatusConflict, call(h, "POST", rejected+"/complete", "").Code)
}

func TestDelete(t *testing.T) {
	h := serve(&fake.Store{})
	path, _ := create(t, h)
	require.Equal(t, http.StatusConflict, call(h, "DELETE", path, "", "If-Match", `"stale"`).Code)
	require.Equal(t, http.StatusNoContent, call(h, "DELETE", path, "", "If-Match", "*").Code)
	require.Equal(t, http.StatusNotFound, call(h, "DELETE", path, "").Code)
}

func TestList(t *testing.T) {
	h := serve(&fake.Store{})
	require.JSONEq(t, `{"todos":[]}`, call(h, "GET", "/todos", "").Body.String())
	var paths []string
	for range 3 {
		path, _ := create(t, h)
		paths = append(paths, path)
	}
	page := decode[map[string][]todo.Todo](t, call(h, "GET", "/todos?limit=2", ""))["todos"]
	require.Len(t, page, 2)
	rest := decode[map[string][]todo.Todo](t, call(h, "GET", "/todos?after="+page[1].ID, ""))["todos"]
	require.Len(t, rest, 1)
	require.Equal(t, paths[2], "/todos/"+rest[0].ID)
	for _, limit := range []string{"0", "501", "many", ""} {
		w := call(h, "GET", "/todos?limit="+limit, "")
		require.Equal(t, http.StatusBadRequest, w.Code)
		require.Contains(t, w.Body.String(), `"field":"limit"`)
	}
}

func TestStoreIsAway(t *testing.T) {
	s := &fake.Store{BeforeApply: func(store.Change) error { return store.ErrUnavailable }}
	w := call(serve(s), "POST", "/todos", `{"title":"milk","due":"2030-01-01"}`)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

func TestSubscriptions(t *testing.T) {
	body := call(serve(&fake.Store{}), "GET", "/dapr/subscribe", "").Body.String()
	for _, topic := range []string{event.TaskScheduled, event.TaskRejected} {
		require.Contains(t, body, fmt.Sprintf(`{"pubsubname":"todo-pubsub","topic":%q,"route":"/events/%s"`, topic, topic))
	}
}
