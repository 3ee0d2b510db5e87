package e2e_test

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
)

// python starts a program that ends with the test, and returns what it prints.
func (e *env) python(program string, environment ...string) *output {
	e.t.Helper()
	var printed output
	app := exec.Command(pythonInterpreter(e.t), "-c", program)
	app.Env = append(os.Environ(), environment...)
	app.Stdout, app.Stderr = &printed, &printed
	require.NoError(e.t, app.Start())
	e.t.Cleanup(func() {
		_ = app.Process.Kill()
		_ = app.Wait() // it was killed
		if e.t.Failed() {
			e.t.Log(printed.words())
		}
	})
	return &printed
}

// pythonGRPC is an app that the sidecar calls by gRPC, with a health check.
const pythonGRPC = `
import os
from dapr.ext.grpc import App, SubscriptionMessage

app = App()
app.register_health_check(lambda: None)

@app.subscribe(pubsub_name="pubsub", topic="orders")
def handle(event: SubscriptionMessage):
    if event.id() == "poison":
        raise RuntimeError("there is no slot")
    print("handled", event.id(), flush=True)

app.run(int(os.environ["APP_PORT"]))
`

func TestAPythonAppOverGRPC(t *testing.T) {
	t.Parallel()
	pythonInterpreter(t)
	e := newEnv(t)
	port, err := e.FreePort()
	require.NoError(t, err)
	d := e.daprd(harness.DaprdOptions{AppPort: port, Args: append([]string{"--app-protocol", "grpc"}, harness.AppHealthChecks...)},
		storeComponent(), pubsubComponent("maxDeliver", "2", "backOff", "100ms"))
	handled := e.python(pythonGRPC, "APP_PORT="+strconv.Itoa(port))
	e.ready(d)
	for _, id := range []string{"poison", "2"} {
		e.publish(d, "orders", id)
	}
	letter := e.dead(1)[0]
	require.Equal(t, "poison", letter.Event.ID)
	require.Contains(t, cause.Of(letter.LastError), "there is no slot")
	e.settled()
	require.Equal(t, []string{"handled", "2"}, handled.words())
}

// pythonWorkflow runs a workflow to its end and prints what comes of it.
const pythonWorkflow = `
import sys
import dapr.ext.workflow as wf

runtime = wf.WorkflowRuntime()

@runtime.activity(name="book")
def book(context, day):
    return "booked " + day

@runtime.workflow(name="schedule")
def schedule(context: wf.DaprWorkflowContext, day: str):
    first = yield context.call_activity(book, input=day)
    second = yield context.call_activity(book, input="the day after")
    return first + " and " + second

runtime.start()
client = wf.DaprWorkflowClient()
instance = client.schedule_new_workflow(schedule, input="monday")
state = client.wait_for_workflow_completion(instance, timeout_in_seconds=280)
print("RESULT", state.runtime_status.name, state.serialized_output, flush=True)
sys.stdin.read()
`

func TestAPythonWorkflow(t *testing.T) {
	t.Parallel()
	pythonInterpreter(t)
	e := newEnv(t)
	plane := e.startControlPlane()
	d := e.daprd(harness.DaprdOptions{Args: plane.sidecarArgs}, storeComponent("actorStateStore", "true"), pubsubComponent())
	t.Cleanup(func() { // how long these take to end by themselves is not what the test is about
		d.Kill()
		plane.placement.Kill()
		plane.scheduler.Kill()
	})
	require.NoError(t, d.WaitCallable(t.Context()))
	printed := e.python(pythonWorkflow, "DAPR_GRPC_PORT="+strconv.Itoa(d.GRPCPort), "DAPR_HTTP_PORT="+strconv.Itoa(d.HTTPPort))
	e.eventually(func(c *assert.CollectT) {
		require.Contains(c, printed.text(), `RESULT COMPLETED "booked monday and booked the day after"`)
	})
}
