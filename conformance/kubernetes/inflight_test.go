package kubernetes_test

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// handler stands in the place of the scheduler and holds each event until it is told how to end.
type handler struct {
	server *http.Server
	served sync.WaitGroup
	// came gets the delivery count of each event that comes.
	came chan string
	// answer lets one event be answered.
	answer chan struct{}
}

func startHandler(t *testing.T, port int) *handler {
	t.Helper()
	h := &handler{came: make(chan string, 100), answer: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]map[string]string{{"pubsubname": "todo-pubsub", "topic": "task-created", "route": "/events/task-created"}})
	})
	mux.HandleFunc("POST /events/task-created", func(_ http.ResponseWriter, r *http.Request) {
		// The server notices that a client went away once the body has been read.
		_, _ = io.Copy(io.Discard, r.Body)
		h.came <- r.Header.Get("deliveryCount")
		select {
		case <-h.answer:
		case <-r.Context().Done():
		}
	})
	listener, err := harness.Listen(t.Context(), port)
	require.NoError(t, err)
	h.server = &http.Server{Handler: mux}
	h.served.Go(func() { _ = h.server.Serve(listener) })
	t.Cleanup(h.end)
	return h
}

// end ends the handler with whatever it has in flight, as the app's end would.
func (h *handler) end() {
	_ = h.server.Close()
	h.served.Wait()
}

// startWithHandler starts a Pod of the todo app with the handler in the scheduler's place.
func startWithHandler(t *testing.T, n *node) (*localPod, *handler) {
	t.Helper()
	pod := n.run(injected(t, n.manifests, "todo"))
	h := startHandler(t, pod.ports["8001"])
	for _, c := range pod.pod.Spec.Containers {
		if c.Name != "scheduler" {
			pod.start(c.Name)
		}
	}
	pod.waitReady()
	return pod, h
}

// What an app has in flight when a process beside it is killed comes again, and that is no failure of the app: it does not
// count towards maxDeliver.
func TestEventInHandWhenAContainerIsKilled(t *testing.T) {
	t.Parallel()
	pod, h := startWithHandler(t, newNode(t, render(t, overlayPod)))
	addTodo(t, pod.at("8000"), "Water the plants", "2099-12-31")
	require.Equal(t, "1", <-h.came)
	pod.processes["scheduler-daprd"].Kill()
	require.Equal(t, "1", <-h.came, "the delivery count after the kill of the sidecar")

	// The app finishes the event, but nobody is there to note it.
	pod.processes["dapr-bolt"].Kill()
	h.answer <- struct{}{}
	require.Equal(t, "1", <-h.came, "the delivery count after the kill of dapr-bolt")
	h.answer <- struct{}{}
	// dapr-bolt has the injected sidecar started again, too.
	require.Eventually(t, func() bool { return pod.restarted(sidecarContainer) > 0 }, seen, 10*time.Millisecond)
	pod.waitReady()
	pod.stop()
}

// An event that an app has in flight when its Pod is deleted is finished if the app finishes it, and else comes again.
func TestEventInHandWhenThePodStops(t *testing.T) {
	t.Parallel()
	for _, overlay := range []string{overlayPod, overlayNative} {
		t.Run(overlay, func(t *testing.T) {
			n := newNode(t, render(t, overlay))
			pod, h := startWithHandler(t, n)
			addTodo(t, pod.at("8000"), "Water the plants", "2099-12-31")
			require.Equal(t, "1", <-h.came)
			var app sync.WaitGroup
			app.Go(func() { h.answer <- struct{}{} })
			t.Logf("the app finished the event: %v", pod.stop())
			app.Wait()
			h.end()

			pod, h = startWithHandler(t, n)
			addTodo(t, pod.at("8000"), "Feed the cat", "2099-12-31")
			require.Equal(t, "1", <-h.came)
			require.Empty(t, h.came, "the finished event does not come again")
			app.Go(h.end)
			t.Logf("the app went away with the event: %v", pod.stop())
			app.Wait()

			pod, h = startWithHandler(t, n)
			t.Logf("the delivery count of the event that the app left: %s", <-h.came)
			h.answer <- struct{}{}
			pod.stop()
		})
	}
}
