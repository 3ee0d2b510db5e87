package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
)

// eventStream is where the todo app's events are on the nats-servers.
const eventStream = servers.DefaultPrefix + "=" + databases.DefaultDatabase + "=" + databases.DefaultPubSubBucket

const (
	drillWorkers  = 4
	drillPause    = 200 * time.Millisecond // of each worker, between its todos
	drillPoll     = 100 * time.Millisecond
	drillPatience = 3 * time.Minute // for what must happen
)

// Drill kills the leader of each kind of server while the todo app is at work, and says in plain lines what that did.
type Drill struct {
	Todo *harness.Todo // on servers
	Out  io.Writer
}

// Run kills the leader of etcd, and then the server that leads the stream of events, each of which comes back afterwards. It
// returns an error if anything that was acknowledged is lost, or if the app's events do not flow again.
func (d *Drill) Run(ctx context.Context) error {
	etcd, err := d.Todo.Servers.Etcd.Leader(ctx)
	if err != nil {
		return err
	}
	if err := d.kill(ctx, etcd.Process, "leads etcd, where the todos are"); err != nil {
		return err
	}
	nats, err := d.Todo.Servers.NATS.StreamLeader(ctx, eventStream)
	if err != nil {
		return err
	}
	return d.kill(ctx, nats.Process, "leads the stream of events on NATS")
}

func (d *Drill) kill(ctx context.Context, server *harness.Process, what string) error {
	w := &work{api: d.Todo.API.App}
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	for range drillWorkers {
		workers.Go(func() { w.make(ctx, working) })
	}
	if _, err := w.seeDecided(ctx, time.Now()); err != nil {
		return err
	}

	killed := time.Now()
	d.say("%s %s: killed (process %d) while todos are made", server.Name(), what, server.PID())
	server.Kill()
	decided, err := w.seeDecided(ctx, killed)
	if err != nil {
		return err
	}
	if err := errors.Join(server.Start(), server.WaitReady(ctx)); err != nil {
		return err
	}
	stop()
	workers.Wait()
	lost, err := w.undecided(ctx)
	if err != nil {
		return err
	}
	d.say("  calls: %d of %d failed and were made again; the slowest took %s", w.failed, w.failed+len(w.made), w.slowest.Round(drillPoll))
	d.say("  events: a todo made after the kill was decided %s after it; nobody restarted a process or subscribed again", decided.Sub(killed).Round(drillPoll))
	d.say("  %s is back; of %d todos that were acknowledged, %d are lost", server.Name(), len(w.made), len(lost))
	if len(lost) > 0 {
		return fmt.Errorf("todos without a decision, which takes their state and two events: %v", lost)
	}
	return w.remove(ctx)
}

func (d *Drill) say(format string, args ...any) { _, _ = fmt.Fprintf(d.Out, format+"\n", args...) }

// work makes todos without end, and keeps the ids of those that were acknowledged.
type work struct {
	api *harness.App

	mu      sync.Mutex
	made    []madeTodo
	failed  int
	slowest time.Duration
}

// madeTodo is a todo whose creation began at an instant.
type madeTodo struct {
	id    string
	begun time.Time
}

// make goes on until working ends; ctx is for the calls, so that none is cut short then.
func (w *work) make(ctx, working context.Context) {
	for working.Err() == nil {
		request, begun := uuid.NewString(), time.Now()
		for working.Err() == nil && !w.create(ctx, request, begun) {
		}
		select {
		case <-time.After(drillPause):
		case <-working.Done():
		}
	}
}

// create makes one todo, however often it is called for the same request, and reports whether that was acknowledged.
func (w *work) create(ctx context.Context, request string, begun time.Time) bool {
	called := time.Now()
	response, err := w.api.Call(ctx, http.MethodPost, "/todos",
		map[string]string{"title": "Watch the servers", "due": called.AddDate(0, 0, 30).Format(time.RFC3339)}, "Idempotency-Key", request)
	var todo struct {
		ID string `json:"id"`
	}
	if err == nil {
		err = cmp.Or(response.OK(), response.JSON(&todo))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slowest = max(w.slowest, time.Since(called))
	if err != nil {
		w.failed++
		return false
	}
	w.made = append(w.made, madeTodo{todo.ID, begun})
	return true
}

// seeDecided waits until a todo whose creation began after an instant is scheduled or rejected, which takes an event to the
// scheduler and one back, and returns when it saw that.
func (w *work) seeDecided(ctx context.Context, after time.Time) (time.Time, error) {
	err := poll(ctx, func() bool {
		w.mu.Lock()
		made := w.made
		w.mu.Unlock()
		for _, t := range made {
			if t.begun.After(after) && w.isDecided(ctx, t.id) {
				return true
			}
		}
		return false
	})
	if err != nil {
		err = fmt.Errorf("no todo that was made was decided within %s: %w", drillPatience, err)
	}
	return time.Now(), err
}

// undecided waits until all todos are decided and returns those that are not.
func (w *work) undecided(ctx context.Context) (left []string, err error) {
	for _, t := range w.made {
		left = append(left, t.id)
	}
	err = poll(ctx, func() bool {
		var still []string
		for _, id := range left {
			if !w.isDecided(ctx, id) {
				still = append(still, id)
			}
		}
		left = still
		return len(left) == 0
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return left, err
}

func (w *work) isDecided(ctx context.Context, id string) bool {
	var todo struct {
		Status string `json:"status"`
	}
	return w.api.Get(ctx, "/todos/"+id, &todo) == nil && (todo.Status == "scheduled" || todo.Status == "rejected")
}

// remove deletes what was made, so that it does not stand among somebody's todos.
func (w *work) remove(ctx context.Context) error {
	for _, t := range w.made {
		response, err := w.api.Call(ctx, http.MethodDelete, "/todos/"+t.id, nil)
		if err := cmp.Or(err, response.OK()); err != nil {
			return err
		}
	}
	return nil
}

// poll asks until it is told true. The error is that of ctx, or that too much time has passed.
func poll(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, drillPatience)
	defer cancel()
	ticker := time.NewTicker(drillPoll)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
