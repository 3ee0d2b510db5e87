package guarantees

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

func subscribe(topic string) subscription {
	return subscription{PubSubName: pubsubName, Topic: topic, Route: "/events/" + topic}
}

// delivery is a request in which the sidecar handed over an event.
type delivery struct {
	Topic  string
	Header http.Header
	// ID and Data are those of the CloudEvent.
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data"`
}

// count is the header deliveryCount.
func (d delivery) count() int {
	n, _ := strconv.Atoi(d.Header.Get("deliveryCount"))
	return n
}

// app is a service inside the test, which a sidecar calls.
type app struct {
	t             *testing.T
	port          int
	subscriptions []subscription

	mu sync.Mutex
	// answer decides what the sidecar is told. Default: 200.
	answer     func(d delivery) (status int, body string)
	deliveries []delivery
	changed    chan struct{} // is closed, and replaced, at each delivery
	server     *http.Server
	served     chan struct{}
}

func (w *world) app(subscriptions ...subscription) *app {
	w.t.Helper()
	port, err := w.FreePort()
	require.NoError(w.t, err)
	a := &app{t: w.t, port: port, subscriptions: subscriptions, changed: make(chan struct{})}
	a.start()
	w.t.Cleanup(a.stop)
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

// answering replaces what decides about deliveries.
func (a *app) answering(answer func(d delivery) (status int, body string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// ServeHTTP implements http.Handler.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/dapr/subscribe" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.subscriptions)
		return
	}
	for _, s := range a.subscriptions {
		if r.Method == http.MethodPost && r.URL.Path == s.Route {
			a.take(s.Topic, w, r)
			return
		}
	}
	http.NotFound(w, r)
}

func (a *app) take(topic string, w http.ResponseWriter, r *http.Request) {
	d := delivery{Topic: topic, Header: r.Header}
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
	answer := a.answer
	a.mu.Unlock()
	if answer == nil {
		return
	}
	status, body := answer(d)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// received are the deliveries so far, in order.
func (a *app) received() []delivery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]delivery(nil), a.deliveries...)
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

// byID counts deliveries by event id.
func byID(deliveries []delivery) map[string]int {
	counts := make(map[string]int)
	for _, d := range deliveries {
		counts[d.ID]++
	}
	return counts
}
