package e2e_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// subscription is an entry of what an app answers to GET /dapr/subscribe.
type subscription struct {
	PubSubName string            `json:"pubsubname"`
	Topic      string            `json:"topic"`
	Route      string            `json:"route"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

// subscribe takes metadata as pairs of key and value.
func subscribe(topic string, metadata ...string) subscription {
	return subscription{PubSubName: pubsubName, Topic: topic, Route: "/events", Metadata: harness.Pairs(metadata)}
}

// delivery is a request in which the sidecar handed over an event.
type delivery struct {
	Header http.Header `json:"-"`
	At     time.Time   `json:"-"`
	// The rest is the CloudEvent's.
	ID    string          `json:"id"`
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`
}

// count is the header deliveryCount.
func (d delivery) count() int {
	n, _ := strconv.Atoi(d.Header.Get("deliveryCount"))
	return n
}

// handler is an app's answer to an event.
type handler func(d delivery) (status int, body string)

// app is a service inside the test, which a sidecar calls.
type app struct {
	t             *testing.T
	port          int
	subscriptions []subscription
	handle        handler
	server        *http.Server
	served        chan struct{}

	mu         sync.Mutex
	deliveries []delivery
	changed    chan struct{} // is closed, and replaced, at each delivery
}

// app starts a service. handle nil: it is content with everything.
func (e *env) app(handle handler, subscriptions ...subscription) *app {
	e.t.Helper()
	port, err := e.FreePort()
	require.NoError(e.t, err)
	if handle == nil {
		handle = func(delivery) (int, string) { return http.StatusOK, "" }
	}
	a := &app{t: e.t, port: port, subscriptions: subscriptions, handle: handle, changed: make(chan struct{})}
	a.start()
	e.t.Cleanup(a.stop)
	return a
}

// start makes the app reachable.
func (a *app) start() {
	a.t.Helper()
	listener, err := harness.Listen(a.t.Context(), a.port)
	require.NoError(a.t, err)
	server, served := &http.Server{Handler: a, ReadHeaderTimeout: patience}, make(chan struct{})
	a.server, a.served = server, served
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.t.Errorf("the app stopped serving: %v", err)
		}
	}()
}

// stop cuts every connection, as the death of a process does. It may be called again.
func (a *app) stop() {
	_ = a.server.Close()
	<-a.served
}

// ServeHTTP implements http.Handler.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/dapr/subscribe":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.subscriptions)
	case r.Method == http.MethodPost && r.URL.Path == "/events":
		a.take(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (a *app) take(w http.ResponseWriter, r *http.Request) {
	d := delivery{Header: r.Header, At: time.Now()}
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, &d)
	}
	if err != nil {
		a.t.Errorf("the sidecar sent %q: %v", raw, err)
	}
	a.mu.Lock()
	a.deliveries = append(a.deliveries, d)
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	status, body := a.handle(d)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// received are the deliveries so far, in order.
func (a *app) received() []delivery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]delivery(nil), a.deliveries...)
}

// ids are those of the deliveries so far, in order.
func (a *app) ids() (ids []string) {
	for _, d := range a.received() {
		ids = append(ids, d.ID)
	}
	return ids
}

// times is how often the event came.
func (a *app) times(id string) int { return a.byID()[id] }

// byID counts the deliveries so far by event id.
func (a *app) byID() map[string]int {
	counts := make(map[string]int)
	for _, id := range a.ids() {
		counts[id]++
	}
	return counts
}

// wait returns the deliveries as soon as there are n.
func (a *app) wait(n int) []delivery {
	a.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		if got := a.received(); len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-timeout.C:
			require.FailNowf(a.t, "too few deliveries", "%d, not %d, within %s", len(a.received()), n, patience)
		}
	}
}
