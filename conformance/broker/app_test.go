package broker

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
	s := subscription{PubSubName: pubsubName, Topic: topic, Route: "/events", Metadata: make(map[string]string)}
	for i := 0; i+1 < len(metadata); i += 2 {
		s.Metadata[metadata[i]] = metadata[i+1]
	}
	return s
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
func (w *world) app(handle handler, subscriptions ...subscription) *app {
	w.t.Helper()
	port, err := w.FreePort()
	require.NoError(w.t, err)
	if handle == nil {
		handle = func(delivery) (int, string) { return http.StatusOK, "" }
	}
	a := &app{t: w.t, port: port, subscriptions: subscriptions, handle: handle, changed: make(chan struct{})}
	listener, err := harness.Listen(w.t.Context(), a.port)
	require.NoError(w.t, err)
	a.server, a.served = &http.Server{Handler: a, ReadHeaderTimeout: patience}, make(chan struct{})
	go func() {
		defer close(a.served)
		if err := a.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.t.Errorf("the app stopped serving: %v", err)
		}
	}()
	w.t.Cleanup(func() {
		_ = a.server.Close()
		<-a.served
	})
	return a
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
