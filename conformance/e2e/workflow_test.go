package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/workflow"
	dapr "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The todo app's saga as a workflow: a todo is created, a slot is booked for it, and the booking is confirmed, or, if that
// cannot be, undone.
const (
	sagaName = "scheduleTodo"

	createTodo  = "createTodo"
	bookSlot    = "bookSlot"
	confirm     = "confirm"
	releaseSlot = "releaseSlot"
	rejectTodo  = "rejectTodo"
)

func saga(ctx *workflow.WorkflowContext) (any, error) {
	do := func(activity string) error {
		return ctx.CallActivity(activity, workflow.WithActivityInput(ctx.ID())).Await(nil)
	}
	if err := do(createTodo); err != nil {
		return nil, err
	}
	err := do(bookSlot)
	if err == nil {
		err = do(confirm)
	}
	if err == nil {
		return "scheduled", nil
	}
	// What was done is undone, the last first.
	for _, compensation := range []string{releaseSlot, rejectTodo} {
		if err := do(compensation); err != nil {
			return nil, err
		}
	}
	return "rejected: " + err.Error(), nil
}

// activity has an effect, exactly once however often it is run, and then stops at the step of its name.
func activity(client dapr.Client, name string) workflow.Activity {
	return func(ctx workflow.ActivityContext) (any, error) {
		var id string
		if err := ctx.GetInput(&id); err != nil {
			return nil, err
		}
		if name == confirm {
			return nil, errors.Join(reach(ctx.Context(), name), errors.New("the day has no slot left"))
		}
		effect := id + "." + name
		if err := addOne(ctx.Context(), client, effect, map[string]string{"idempotencyKey": effect}); err != nil {
			return nil, err
		}
		return nil, reach(ctx.Context(), name)
	}
}

func serveWorkflow(ctx context.Context, address string) error {
	client, err := dapr.NewClient()
	if err != nil {
		return err
	}
	defer client.Close()
	registry := workflow.NewRegistry()
	if err := registry.AddWorkflowN(sagaName, saga); err != nil {
		return err
	}
	for _, name := range []string{createTodo, bookSlot, confirm, releaseSlot, rejectTodo} {
		if err := registry.AddActivityN(name, activity(client, name)); err != nil {
			return err
		}
	}
	if err := workflow.NewClient(client.GrpcClientConn()).StartWorker(ctx, registry); err != nil {
		return err
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.NotFound(w, r)
		}
	})}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A saga with a failing activity runs to its end, compensation included, though dapr-bolt, the app and the sidecar are
// each killed while an activity is under way. Each activity's effect takes place once.
func TestAWorkflowOutlivesEveryProcess(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := newSteps()
	control := httptest.NewServer(s)
	t.Cleanup(control.Close)
	_, d, a := e.hosts("workflow", control.URL)

	const id, workflows = "todo-1", "/v1.0/workflows/dapr/"
	e.eventually(func(c *assert.CollectT) {
		r, err := d.Call(t.Context(), http.MethodPost, workflows+sagaName+"/start?instanceID="+id, nil)
		require.NoError(c, err)
		require.NoError(c, r.OK())
	})
	began := time.Now()
	runs := make(map[string]int)
	pending := map[string]func(step){
		bookSlot: func(at step) { // what the activity says on its return finds no store
			e.bolt.Kill()
			close(at.letGo)
			require.NoError(t, e.bolt.Restart(t.Context()))
		},
		releaseSlot: func(step) { // the activity never returns
			a.Kill()
			require.NoError(t, a.Start())
			require.NoError(t, a.WaitReady(t.Context()))
		},
		rejectTodo: func(at step) { // the activity returns to nobody
			d.Kill()
			close(at.letGo)
			require.NoError(t, d.Start())
			e.ready(d)
		},
	}
	done := make(chan struct{})
	status := func() (status struct {
		RuntimeStatus string            `json:"runtimeStatus"`
		Properties    map[string]string `json:"properties"`
	}) {
		r, err := d.Call(t.Context(), http.MethodGet, workflows+id, nil)
		if err == nil && r.OK() == nil {
			_ = r.JSON(&status)
		}
		return status
	}
	go func() {
		defer close(done)
		for status().RuntimeStatus != "COMPLETED" && t.Context().Err() == nil {
			pause(t.Context(), poll)
		}
	}()
	for running := true; running; {
		select {
		case at := <-s.reached:
			runs[at.name]++
			if kill := pending[at.name]; kill != nil {
				delete(pending, at.name)
				kill(at)
				continue
			}
			close(at.letGo)
		case <-done:
			running = false
		case <-time.After(patience):
			require.FailNow(t, "the workflow does not come to its end", "runs so far: %v, status %+v", runs, status())
		}
	}
	require.Empty(t, pending, "kills that did not take place")
	require.Contains(t, status().Properties["dapr.workflow.output"], "rejected", "%+v", status())
	require.Contains(t, status().Properties["dapr.workflow.output"], "the day has no slot left")
	client := e.sdk(d)
	for _, name := range []string{createTodo, bookSlot, releaseSlot, rejectTodo} {
		require.Positive(t, runs[name])
		require.Equal(t, 1, e.counter(client, id+"."+name), "the effect of %s, which ran %d times", name, runs[name])
	}
	for name := range map[string]bool{releaseSlot: true, rejectTodo: true} {
		require.Greater(t, runs[name], 1, "runs of %s, whose first was cut off", name)
	}
	fmt.Printf("the workflow came to its end in %s, after three kills; runs of its activities, each with one effect: %v\n", time.Since(began).Round(time.Second), runs)
}
