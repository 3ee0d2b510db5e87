package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dapr/go-sdk/service/common"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	requestTimeout = 30 * time.Second
	maxBody        = 64 << 10
	// A sidecar delivers nothing larger than a gRPC message of 4 MiB.
	maxEvent = 4 << 20
)

// server serves a service's own API and what its sidecar calls, on one port.
type server struct {
	mux           *http.ServeMux
	subscriptions []common.Subscription
	log           *slog.Logger
}

// newServer makes a server with the routes that each service has: /healthz and /dapr/subscribe.
func newServer(log *slog.Logger) *server {
	s := &server{mux: http.NewServeMux(), log: log}
	s.handle("GET /healthz", func(w http.ResponseWriter, _ *http.Request) error {
		return writeJSON(w, http.StatusOK, map[string]string{"status": "up"})
	})
	s.handle("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) error {
		return writeJSON(w, http.StatusOK, s.subscriptions)
	})
	return s
}

// serve serves until ctx ends; then it takes no more connections and waits for the requests in flight, for grace at most.
func (s *server) serve(ctx context.Context, listener net.Listener, grace time.Duration) error {
	h := &http.Server{
		Handler:           http.TimeoutHandler(s.mux, requestTimeout, "the request took too long"),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		stopped <- h.Shutdown(ctx)
	})
	if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	}
	if err := <-stopped; err != nil {
		return errors.Join(fmt.Errorf("requests still in flight after %s were cut off: %w", grace, err), h.Close())
	}
	return nil
}

// handle adds a route. The handler answers the request or returns the error to answer it with.
func (s *server) handle(pattern string, handler func(http.ResponseWriter, *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := handler(w, r); err != nil {
			refused := asRefusal(err)
			s.log.WarnContext(r.Context(), "Request refused", "method", r.Method, "path", r.URL.Path, "status", refused.status, "error", err)
			_ = writeJSON(w, refused.status, refused)
		}
	})
}

// subscribe has the sidecar deliver a topic to a handler. A handler that fails gets the event again.
//
// The SDK's HTTP service would answer 200 with the status RETRY then, and the error's text would not leave the app. This
// is a 500 with the text, which stands in the dead letter if there is one at last.
func (s *server) subscribe(topic string, handle handler) {
	route := "/events/" + topic
	token := os.Getenv(common.AppAPITokenEnvVar)
	s.subscriptions = append(s.subscriptions, common.Subscription{PubsubName: pubsubComponent, Topic: topic, Route: route})
	s.mux.HandleFunc("POST "+route, func(w http.ResponseWriter, r *http.Request) {
		if token != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get(common.APITokenKey)), []byte(token)) != 1 {
			http.Error(w, "header "+common.APITokenKey+" is missing or wrong, want the value of "+common.AppAPITokenEnvVar, http.StatusUnauthorized)
			return
		}
		var d delivery
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEvent)).Decode(&d)
		if err == nil && (d.ID == "" || d.Data.TodoID == "") {
			err = fmt.Errorf("malformed event: id is %q and data.todoId is %q, want both", d.ID, d.Data.TodoID)
		}
		if err == nil {
			err = handle(r.Context(), d)
		}
		log := s.log.With("event", d.ID, "topic", topic, "todo", d.Data.TodoID, "deliveryCount", r.Header.Get("deliveryCount"))
		if err != nil {
			log.ErrorContext(r.Context(), "Event failed", "error", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		log.InfoContext(r.Context(), "Event handled")
		_ = writeJSON(w, http.StatusOK, common.SubscriptionResponse{Status: common.SubscriptionResponseStatusSuccess})
	})
}

// refusal is an error for a caller, with its HTTP status.
type refusal struct {
	status  int
	Message string `json:"error"`
}

func (r *refusal) Error() string { return r.Message }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, Message: fmt.Sprintf(format, args...)}
}

// invalid is the refusal of an input. It shows at most 60 characters of the value.
func invalid(field, value, allowed string) *refusal {
	return refuse(http.StatusBadRequest, "%s is %.60q, want %s", field, value, allowed)
}

func asRefusal(err error) *refusal {
	var refused *refusal
	code := status.Code(err)
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, errConflict):
		return refuse(http.StatusConflict, "%v", err)
	case code == codes.Unavailable || code == codes.DeadlineExceeded:
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return refuse(http.StatusInternalServerError, "%v", err)
}

// readJSON decodes a request's body of up to 64 KiB. Fields that target does not have are refused.
func readJSON(w http.ResponseWriter, r *http.Request, target any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(target)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "the body is too large, want at most %d bytes", maxBody)
	}
	return refuse(http.StatusBadRequest, "the body is not the JSON object that is wanted: %v", err)
}

func writeJSON(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that went away is no failure of the handler, and there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(value)
	return nil
}
