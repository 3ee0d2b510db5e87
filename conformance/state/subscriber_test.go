package state

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// delivery is an event that the sidecar handed over.
type delivery struct {
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data"`
}

// subscriber is an app inside the test that takes the events of one topic.
type subscriber struct {
	port   int
	handle func(delivery) (status int)

	mu         sync.Mutex
	deliveries []delivery
}

// subscriber starts one, whose handle (nil: 200) decides what the sidecar is told.
func (w *world) subscriber(topic string, handle func(delivery) (status int)) *subscriber {
	w.t.Helper()
	s := &subscriber{handle: handle}
	port, err := w.FreePort()
	require.NoError(w.t, err)
	s.port = port
	listener, err := harness.Listen(w.t.Context(), port)
	require.NoError(w.t, err)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode([]map[string]string{{"pubsubname": pubsubName, "topic": topic, "route": "/events"}})
	})
	mux.HandleFunc("POST /events", func(rw http.ResponseWriter, r *http.Request) {
		var d delivery
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			w.t.Errorf("the sidecar sent no event: %v", err)
		}
		s.mu.Lock()
		s.deliveries = append(s.deliveries, d)
		s.mu.Unlock()
		if s.handle != nil {
			rw.WriteHeader(s.handle(d))
		}
	})
	server := httptest.NewUnstartedServer(mux)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	w.t.Cleanup(server.Close)
	return s
}

// received are the deliveries so far, in order.
func (s *subscriber) received() []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]delivery(nil), s.deliveries...)
}

// count is how often the event came.
func (s *subscriber) count(id string) (n int) {
	for _, d := range s.received() {
		if d.ID == id {
			n++
		}
	}
	return n
}
