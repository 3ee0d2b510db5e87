// Package web serves a service of the todo app over HTTP: its own API and what its sidecar calls, on one port.
package web

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/dapr/go-sdk/service/common"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
)

const requestTimeout = 30 * time.Second

// Options sets an App up. PubSub and Ready are required.
type Options struct {
	// PubSub is the name of the pub/sub component to subscribe on.
	PubSub string
	// Ready returns why the service cannot work now, nil if it can; it is asked for /readyz.
	Ready func() error
	// Status gives the HTTP status of an error that the app's handlers return, 500 if it knows none. What the
	// web package finds wrong itself has its status already.
	Status func(err error) int
	// AppToken, if set, is what a sidecar has to send with each event (Dapr's APP_API_TOKEN).
	AppToken string
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// App is the routes of a service. Register everything before Handler's answer is served.
type App struct {
	options       Options
	mux           *http.ServeMux
	subscriptions []common.Subscription
}

// HandlerFunc answers a request or returns the error to answer it with; not both.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// New makes an App with the routes that each service has: /healthz (the process is up), /readyz (its sidecar
// is reached, too) and /dapr/subscribe.
func New(o Options) *App {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &App{options: o, mux: http.NewServeMux()}
	a.Handle("GET /healthz", func(w http.ResponseWriter, _ *http.Request) error {
		return WriteJSON(w, http.StatusOK, map[string]string{"status": "up"})
	})
	a.Handle("GET /readyz", func(w http.ResponseWriter, _ *http.Request) error {
		// Not logged as a failure: whoever asks is waiting for the service to come up.
		if err := o.Ready(); err != nil {
			writeError(w, http.StatusServiceUnavailable, err)
			return nil
		}
		return WriteJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	a.Handle("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) error {
		return WriteJSON(w, http.StatusOK, append([]common.Subscription{}, a.subscriptions...))
	})
	return a
}

// Handle adds a route.
func (a *App) Handle(pattern string, handle HandlerFunc) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			a.fail(w, r, err)
		}
	})
}

// Handler returns the app for an http.Server. It bounds each request's time, and answers and logs panics.
func (a *App) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			a.options.Logger.ErrorContext(ctx, "Panic in a handler", "method", r.Method, "path", r.URL.Path, "panic", cause, "stack", string(debug.Stack()))
			writeError(w, http.StatusInternalServerError, fmt.Errorf("panic: %v", cause))
		}()
		a.options.Logger.DebugContext(ctx, "Request", "method", r.Method, "path", r.URL.Path)
		a.mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *App) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := a.statusOf(err)
	level := slog.LevelInfo
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	a.options.Logger.Log(r.Context(), level, "Request refused", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
	writeError(w, status, err)
}

func (a *App) statusOf(err error) int {
	var own *statusError
	var field *invalid.Field
	switch {
	case errors.As(err, &own):
		return own.status
	case errors.As(err, &field):
		return http.StatusBadRequest
	case a.options.Status != nil:
		return a.options.Status(err)
	}
	return http.StatusInternalServerError
}

func (a *App) fromSidecar(r *http.Request) bool {
	token := r.Header.Get(common.APITokenKey)
	return a.options.AppToken == "" || subtle.ConstantTimeCompare([]byte(token), []byte(a.options.AppToken)) == 1
}
