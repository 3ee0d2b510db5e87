package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Options for Listen.
type Options struct {
	// Path is where the socket goes. Its directory must exist. Required.
	Path string
	// Service answers the calls. Required.
	Service *Service
	// Logger hears of calls that failed. Default: slog.Default().
	Logger *slog.Logger
}

// Server answers on the admin socket.
type Server struct {
	opts     Options
	endpoint *endpoint
	// stopping ends when the server begins to stop.
	stopping context.Context
}

// Listen creates the socket, with mode 0600, and serves it. A socket that a process still serves is an error that
// names the process; a dead one is replaced. The caller must Stop the Server.
func Listen(ctx context.Context, opts Options) (*Server, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	l, err := listenUnix(ctx, opts.Path, opts.Logger)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	stopping, stop := context.WithCancel(context.Background())
	s := &Server{opts: opts, stopping: stopping}
	s.endpoint = serve(l, s.handler(), opts.Logger)
	s.endpoint.server.RegisterOnShutdown(stop)
	return s, nil
}

// Stop removes the socket and waits for running calls, which it cuts off when ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if err := errors.Join(os.Remove(s.opts.Path), s.endpoint.stop(ctx)); err != nil {
		return fmt.Errorf("stop the admin socket: %w", err)
	}
	return nil
}

// handler answers all calls.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for path, answer := range routes {
		mux.HandleFunc("POST "+path, s.handle(answer))
	}
	mux.HandleFunc("POST "+pathWatch, s.watch)
	mux.HandleFunc("/", s.handle(func(_ *Service, r *http.Request) (any, error) {
		return nil, Refuse(http.StatusNotFound, "no such call: %s %s", r.Method, r.URL.Path)
	}))
	return mux
}

// handle answers with what fn returns, as JSON. Nothing that fn does can end the process.
func (s *Server) handle(fn func(s *Service, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		// What a call takes is bounded by what it does: a backup of a large file takes longer than any timeout.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		answer, err := fn(s.opts.Service, r)
		status := http.StatusOK
		if err != nil {
			status, answer = StatusOf(err), errorBody{err.Error()}
			if status == http.StatusInternalServerError {
				s.opts.Logger.Error("an admin call failed", "call", r.Method+" "+r.URL.Path, "error", err)
			}
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		// An error here means that the client has left.
		_ = enc.Encode(answer)
	}
}

// openWatch is what of a watch can be refused.
func (s *Service) openWatch(ctx context.Context, r *http.Request) (pubsub.Watch, error) {
	var request TopicRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	broker, err := s.broker(ctx, request.WithDefaults())
	if err != nil {
		return nil, err
	}
	return broker.Watch(ctx, request.Topic)
}

// watch streams new events, payload and all, until the client has left, or the server stops. An event that is held back is
// shown when it is published, with the sequence 0.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	watch, err := s.opts.Service.openWatch(ctx, r)
	if err != nil {
		s.handle(func(*Service, *http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	defer watch.Close()
	control, enc := http.NewResponseController(w), json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	for control.Flush() == nil {
		select {
		case e := <-watch.Events():
			_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
			if enc.Encode(WatchedEvent{Topic: e.Topic, Event: newEvent(&e, true), Missed: watch.Missed()}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// decode reads one JSON object without unknown fields.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Refuse(http.StatusRequestEntityTooLarge, "the request is too large: at most %d bytes are allowed, in which a value or an event stands as base64", tooLarge.Limit)
	}
	if err != nil {
		return badRequest("request body: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("request body: more than one JSON value")
	}
	return nil
}
