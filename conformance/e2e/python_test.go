package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pythonApp prints the id of each event that its handler gets, and raises for one of them. It ends with its input.
const pythonApp = `
import sys
from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse

def handle(message):
    print(message.id(), flush=True)
    if message.id() == "poison":
        raise RuntimeError("this one cannot be handled")
    return TopicEventResponse("success")

with DaprClient() as client:
    close = client.subscribe_with_handler(pubsub_name="pubsub", topic="orders", handler_fn=handle)
    sys.stdin.read()
    close()
`

// output is what a process has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) words() []string { return strings.Fields(o.text()) }

// Dapr's SDK for Python ends its stream when a handler raises, and opens it again. The event that does it becomes a dead
// letter, and those behind it are handled.
func TestAPythonHandlerThatRaisesDoesNotBlockItsGroup(t *testing.T) {
	t.Parallel()
	python := pythonInterpreter(t)

	e := newEnv(t)
	d := e.sidecar("app", "app", nil, "maxDeliver", "3", "backOff", "100ms")
	e.ready(d)
	for _, id := range []string{"poison", "2", "3"} {
		e.publish(d, "orders", id)
	}
	var handled output
	app := exec.CommandContext(t.Context(), python, "-c", pythonApp)
	app.Env = append(os.Environ(), "DAPR_GRPC_PORT="+strconv.Itoa(d.GRPCPort), "DAPR_HTTP_PORT="+strconv.Itoa(d.HTTPPort))
	app.Stdout = &handled
	var stderr output
	app.Stderr = &stderr
	stdin, err := app.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, app.Start())
	defer func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, app.Wait(), "%v", stderr.words())
	}()

	letter := e.dead(1)[0]
	require.Equal(t, "poison", letter.Event.ID)
	// Where the sidecar hears of the stream's end before it ends its own, it fails the event itself, which is a delivery.
	deliveries, inARow := 0, 0
	for _, a := range letter.Attempts {
		if inARow++; a.Error == "stream closed" {
			deliveries, inARow = deliveries+1, 0
		}
	}
	require.Equal(t, deliveries, letter.Deliveries)
	if deliveries < 3 {
		require.Equal(t, pubsub.ReasonInterrupted, letter.Reason)
		require.Equal(t, 3, inARow)
	} else {
		require.Equal(t, pubsub.ReasonMaxDeliver, letter.Reason)
	}
	e.settled()
	e.eventually(func(c *assert.CollectT) {
		handled := handled.words()
		others := slices.DeleteFunc(slices.Clone(handled), func(id string) bool { return id == "poison" })
		require.ElementsMatch(c, []string{"2", "3"}, others, "%v", stderr.words())
		require.Len(c, handled, len(letter.Attempts)+len(others), "%v", stderr.words())
	})
}
