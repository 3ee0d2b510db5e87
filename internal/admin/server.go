package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"
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
	log      *slog.Logger
	endpoint *endpoint
	// stopping ends when the server begins to stop.
	stopping context.Context
	stop     context.CancelFunc
}

// Listen creates the socket, with mode 0600, and serves it. A socket that a process still serves is an error that
// names the process; a dead one is replaced. The caller must Stop the Server.
func Listen(ctx context.Context, opts Options) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	l, err := listenUnix(ctx, opts.Path, opts.Logger)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	s := &Server{opts: opts, log: opts.Logger}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.endpoint = serve(l, s.routes(), s.log)
	return s, nil
}

// Stop removes the socket and waits for running calls, which it cuts off when ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	s.stop()
	if err := errors.Join(os.Remove(s.opts.Path), s.endpoint.stop(ctx)); err != nil {
		return fmt.Errorf("stop the admin socket: %w", err)
	}
	return nil
}

// handle answers with what fn returns, as JSON. Nothing that fn does can end the process.
func (s *Server) handle(fn func(w http.ResponseWriter, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		// What a call takes is bounded by what it does: a backup of a large file takes longer than any timeout.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		answer, err := fn(w, r)
		status := http.StatusOK
		if err != nil {
			status, answer = StatusOf(err), errorBody{err.Error()}
			if status == http.StatusInternalServerError {
				s.log.Error("an admin call failed", "call", r.Method+" "+r.URL.Path, "error", err)
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

// watch streams new events.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	var request TopicRequest
	err := decode(r, &request)
	if err == nil {
		_, err = s.opts.Service.broker(r.Context(), request.Bucket)
	}
	if err != nil {
		s.handle(func(http.ResponseWriter, *http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	control, enc := http.NewResponseController(w), json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	// It ends when the client has left, or the server stops.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	_ = s.opts.Service.Watch(ctx, request, func(e WatchedEvent) error {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		return errors.Join(enc.Encode(e), control.Flush())
	})
}

// decode reads one JSON object without unknown fields.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, "the request is too large: at most %d bytes are allowed, in which a value or an event stands as base64", tooLarge.Limit)
	}
	if err != nil {
		return badRequest("request body: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("request body: more than one JSON value")
	}
	return nil
}
