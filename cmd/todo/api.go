package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
)

// pageSize is how many todos a page of the list has at most.
const pageSize = 100

// api keeps todos: the first service. Its records in the store are todo/<id>.
type api struct {
	dapr *sidecar
}

// register adds the api's routes and subscriptions:
//
//	POST   /todos                 {title, due}; header Idempotency-Key, if the request may be repeated
//	GET    /todos                 ?token=<next of the page before>
//	GET    /todos/{id}
//	PUT    /todos/{id}            {title}; header If-Match
//	POST   /todos/{id}/complete   header If-Match if wanted
//	DELETE /todos/{id}            header If-Match if wanted
func (a *api) register(s *server) {
	s.handle("POST /todos", a.create)
	s.handle("GET /todos", a.list)
	s.handle("GET /todos/{id}", a.show)
	s.handle("PUT /todos/{id}", a.edit)
	s.handle("POST /todos/{id}/complete", a.complete)
	s.handle("DELETE /todos/{id}", a.remove)
	s.subscribe(taskScheduled, a.decided)
	s.subscribe(taskRejected, a.decided)
}

func (a *api) create(w http.ResponseWriter, r *http.Request) error {
	var d draft
	if err := readJSON(w, r, &d); err != nil {
		return err
	}
	made, err := newTodo(d, r.Header.Get("Idempotency-Key"), time.Now())
	if err != nil {
		return err
	}
	err = a.dapr.save(r.Context(), "create."+made.ID, write{key: todoKey(made.ID), value: made})
	// A request that is repeated when its idempotencyKey is forgotten meets the todo that it made.
	if err != nil && !errors.Is(err, errConflict) {
		return err
	}
	t, _, err := a.get(r.Context(), made.ID)
	if err != nil {
		return err
	}
	if t.Request != made.Request {
		return refuse(http.StatusUnprocessableEntity, "the Idempotency-Key %q came with another request before", r.Header.Get("Idempotency-Key"))
	}
	if err := a.dapr.publish(r.Context(), taskCreated, content{TodoID: t.ID, Title: t.Title, Due: t.Due}); err != nil {
		return err
	}
	w.Header().Set("Location", "/todos/"+t.ID)
	return a.answer(w, r, http.StatusCreated, t.ID)
}

// list answers a page of todos in the order of their creation, and where the next one begins.
func (a *api) list(w http.ResponseWriter, r *http.Request) error {
	// A query sees every record of the store. Todos are those with such a status.
	query, err := json.Marshal(map[string]any{
		"filter": map[string]any{"IN": map[string]any{"status": []string{pending, scheduled, rejected, completed}}},
		"sort":   []map[string]string{{"key": "createdAt"}, {"key": "id"}},
		"page":   map[string]any{"limit": pageSize, "token": r.URL.Query().Get("token")},
	})
	if err != nil {
		return err
	}
	found, err := a.dapr.QueryStateAlpha1(r.Context(), storeComponent, string(query), nil)
	if err != nil {
		return err
	}
	todos := make([]json.RawMessage, len(found.Results))
	for i, item := range found.Results {
		todos[i] = item.Value
	}
	return writeJSON(w, http.StatusOK, map[string]any{"todos": todos, "next": found.Token})
}

func (a *api) show(w http.ResponseWriter, r *http.Request) error {
	return a.answer(w, r, http.StatusOK, r.PathValue("id"))
}

func (a *api) edit(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Title string `json:"title"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if ifMatch(r) == "" {
		return refuse(http.StatusPreconditionRequired, "the version to edit is missing: send the todo's ETag as If-Match header")
	}
	err := a.update(r, func(t *todo) (bool, error) { return true, t.rename(in.Title, time.Now()) })
	if err != nil {
		return err
	}
	return a.answer(w, r, http.StatusOK, r.PathValue("id"))
}

func (a *api) complete(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	err := a.update(r, func(t *todo) (bool, error) { return t.complete(time.Now()) })
	if err != nil {
		return err
	}
	if err := a.dapr.publish(r.Context(), taskCompleted, content{TodoID: id}); err != nil {
		return err
	}
	return a.answer(w, r, http.StatusOK, id)
}

func (a *api) remove(w http.ResponseWriter, r *http.Request) error {
	err := a.update(r, func(t *todo) (bool, error) { return t.remove() })
	if err != nil {
		return err
	}
	if err := a.dapr.publish(r.Context(), taskDeleted, content{TodoID: r.PathValue("id")}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// decided takes the scheduler's answer: a slot, or a reason to reject the todo. The first answer to a pending todo counts;
// one that comes again, or after completion, changes nothing.
func (a *api) decided(ctx context.Context, d delivery) error {
	return retry(ctx, func() error {
		t, etag, err := load[todo](ctx, a.dapr, todoKey(d.Data.TodoID))
		if err != nil || t.Status != pending {
			return err
		}
		t.decide(d, time.Now())
		return a.dapr.save(ctx, d.ID, write{key: todoKey(t.ID), value: t, etag: etag})
	})
}

// get returns a todo and its ETag.
func (a *api) get(ctx context.Context, id string) (todo, string, error) {
	t, etag, err := load[todo](ctx, a.dapr, todoKey(id))
	if err == nil {
		err = t.there()
	}
	return t, etag, err
}

// update loads the todo that a request names, has change change it and saves it. If somebody else saved it meanwhile, it
// begins again. A request that names a version in its If-Match header changes that version or none.
func (a *api) update(r *http.Request, change func(*todo) (changed bool, err error)) error {
	return retry(r.Context(), func() error {
		t, etag, err := load[todo](r.Context(), a.dapr, todoKey(r.PathValue("id")))
		if err != nil {
			return err
		}
		changed, err := change(&t)
		if err != nil || !changed {
			return err
		}
		if want := ifMatch(r); want != "" && want != etag {
			return refuse(http.StatusConflict, "the todo has changed since it was read: it is at version %q, not %q", etag, want)
		}
		return a.dapr.save(r.Context(), "", write{key: todoKey(t.ID), value: t, etag: etag})
	})
}

// answer answers with a todo as it is now.
func (a *api) answer(w http.ResponseWriter, r *http.Request, status int, id string) error {
	t, etag, err := a.get(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+etag+`"`)
	return writeJSON(w, status, t)
}

// ifMatch returns the version that the caller insists on; "*" asks for any, which a todo that is there has.
func ifMatch(r *http.Request) string {
	return strings.Trim(strings.TrimPrefix(r.Header.Get("If-Match"), "*"), `"`)
}

func todoKey(id string) string { return "todo/" + id }
