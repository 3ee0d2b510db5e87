package performance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// app is a service that a sidecar hands events to. It subscribes to a fixed number of topics when it starts, as Dapr
// asks once, and gives them out by and by.
type app struct {
	port   int
	server *http.Server
	served chan error

	mu       sync.Mutex
	free     []string
	topics   map[string]string       // by the name that the measurement knows
	handlers map[string]func([]byte) // by the name that the sidecar knows
}

// startApp returns an app that listens.
func startApp(topics int) (*app, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &app{
		port:     listener.Addr().(*net.TCPAddr).Port,
		served:   make(chan error, 1),
		topics:   map[string]string{},
		handlers: map[string]func([]byte){},
	}
	for n := range topics {
		a.free = append(a.free, fmt.Sprintf("bench.sidecars-%d", n))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", a.subscriptions)
	mux.HandleFunc("POST /events/{topic}", a.event)
	a.server = &http.Server{Handler: mux}
	go func() { a.served <- a.server.Serve(listener) }()
	return a, nil
}

func (a *app) Close() error {
	err := a.server.Close()
	if served := <-a.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (a *app) subscriptions(w http.ResponseWriter, _ *http.Request) {
	type subscription struct {
		PubSubName string `json:"pubsubname"`
		Topic      string `json:"topic"`
		Route      string `json:"route"`
	}
	list := []subscription{}
	a.mu.Lock()
	for _, topic := range a.free {
		list = append(list, subscription{sidecarComponent, topic, "/events/" + topic})
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

func (a *app) event(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	handle := a.handlers[r.PathValue("topic")]
	a.mu.Unlock()
	if handle != nil {
		handle(data)
	}
}

// assign gives one of the topics to a measurement.
func (a *app) assign(topic string, handle func([]byte)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.free) == 0 {
		return errors.New("all topics of the app are in use")
	}
	own := a.free[0]
	a.free = a.free[1:]
	a.topics[topic], a.handlers[own] = own, handle
	return nil
}

// topic is the name that the sidecar knows.
func (a *app) topic(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.topics[name]
}
