// Package api offers todos over HTTP and takes the scheduler's answers: the first service of the todo app.
package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

const (
	defaultLimit = 100
	maxLimit     = 500
)

// errNoVersion says that an edit does not name the version it is based on.
var errNoVersion = errors.New("the version to edit is missing: send the todo's ETag as If-Match header or as \"etag\" in the body")

type routes struct {
	todos *todo.Service
}

// Register adds the api's routes and subscriptions:
//
//	POST   /todos                 {title, due, notes?}; header Idempotency-Key
//	GET    /todos                 ?limit=100&after=<id>
//	GET    /todos/{id}
//	PUT    /todos/{id}            {title?, notes?, etag?}; header If-Match, unless etag is given
//	POST   /todos/{id}/complete   header If-Match if wanted
//	DELETE /todos/{id}            header If-Match if wanted
func Register(app *web.App, todos *todo.Service) {
	api := routes{todos}
	app.Subscribe(event.TaskScheduled, todos.TaskScheduled)
	app.Subscribe(event.TaskRejected, todos.TaskRejected)
	app.Handle("POST /todos", api.create)
	app.Handle("GET /todos", api.list)
	app.Handle("GET /todos/{id}", api.get)
	app.Handle("PUT /todos/{id}", api.edit)
	app.Handle("POST /todos/{id}/complete", api.complete)
	app.Handle("DELETE /todos/{id}", api.remove)
}

func (a routes) create(w http.ResponseWriter, r *http.Request) error {
	var draft todo.Draft
	if err := web.ReadJSON(w, r, &draft); err != nil {
		return err
	}
	v, created, err := a.todos.Create(r.Context(), draft, r.Header.Get("Idempotency-Key"))
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/todos/"+v.Todo.ID)
	if !created {
		w.Header().Set("Idempotent-Replayed", "true")
		return write(w, http.StatusOK, v)
	}
	return write(w, http.StatusCreated, v)
}

func (a routes) list(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := limitOf(query)
	if err != nil {
		return err
	}
	todos, err := a.todos.List(r.Context(), query.Get("after"), limit)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, map[string]any{"todos": todos})
}

func (a routes) get(w http.ResponseWriter, r *http.Request) error {
	v, err := a.todos.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, v)
}

func (a routes) edit(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		todo.Patch
		ETag string `json:"etag"`
	}
	if err := web.ReadJSON(w, r, &in); err != nil {
		return err
	}
	etag := ifMatch(r)
	if etag == "" {
		etag = unquote(in.ETag)
	}
	if etag == "" {
		return errNoVersion
	}
	v, err := a.todos.Edit(r.Context(), r.PathValue("id"), etag, in.Patch)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, v)
}

func (a routes) complete(w http.ResponseWriter, r *http.Request) error {
	v, err := a.todos.Complete(r.Context(), r.PathValue("id"), ifMatch(r))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, v)
}

func (a routes) remove(w http.ResponseWriter, r *http.Request) error {
	if err := a.todos.Delete(r.Context(), r.PathValue("id"), ifMatch(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Status is the HTTP status of an api error.
func Status(err error) int {
	for _, known := range []struct {
		err    error
		status int
	}{
		{errNoVersion, http.StatusPreconditionRequired},
		{todo.ErrNotFound, http.StatusNotFound},
		{todo.ErrVersion, http.StatusConflict},
		{todo.ErrStatus, http.StatusConflict},
		{todo.ErrKeyReused, http.StatusUnprocessableEntity},
		{todo.ErrGone, http.StatusGone},
		{store.ErrConflict, http.StatusConflict},
		{store.ErrUnavailable, http.StatusServiceUnavailable},
		{todo.ErrOutboxFull, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, known.err) {
			return known.status
		}
	}
	return http.StatusInternalServerError
}

func write(w http.ResponseWriter, status int, v todo.Version) error {
	w.Header().Set("ETag", `"`+v.ETag+`"`)
	return web.WriteJSON(w, status, v.Todo)
}

// ifMatch returns the version that the caller insists on; "*" asks for any, which a todo that is there has.
func ifMatch(r *http.Request) string {
	etag := r.Header.Get("If-Match")
	if etag == "*" {
		return ""
	}
	return unquote(etag)
}

func unquote(etag string) string {
	return strings.Trim(etag, `"`)
}

func limitOf(query url.Values) (int, error) {
	if !query.Has("limit") {
		return defaultLimit, nil
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit < 1 || limit > maxLimit {
		return 0, invalid.NewField("limit", query.Get("limit"), fmt.Sprintf("1 to %d", maxLimit))
	}
	return limit, nil
}
