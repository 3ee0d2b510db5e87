package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Options for Listen.
type Options struct {
	// Path is where the socket goes. Its directory must exist. Required.
	Path string
	// Databases is what the calls work on. Required.
	Databases *databases.Manager
	// Ready says what keeps the process from serving, or nil. Required.
	Ready func(ctx context.Context) error
	// Info describes the process; PID and Databases are filled in. Required.
	Info func() Info
	// Logger hears of changes that people made and of calls that failed. Default: slog.Default().
	Logger *slog.Logger
}

// Server answers on the admin socket.
type Server struct {
	opts     Options
	log      *slog.Logger
	endpoint *endpoint
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
	s.endpoint = serve(l, s.routes(), s.log)
	return s, nil
}

// Stop removes the socket and waits for running calls, which it cuts off when ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if err := errors.Join(os.Remove(s.opts.Path), s.endpoint.stop(ctx)); err != nil {
		return fmt.Errorf("stop the admin socket: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for path, fn := range map[string]func(http.ResponseWriter, *http.Request) (any, error){
		pathInfo:        s.info,
		pathReady:       s.ready,
		pathList:        s.list,
		pathShow:        s.show,
		pathRedrive:     s.redrive,
		pathPurge:       s.purge,
		pathBuckets:     s.buckets,
		pathTopics:      s.topics,
		pathRemoveGroup: s.removeGroup,
		pathBackup:      s.backup,
	} {
		mux.HandleFunc("POST "+path, s.call(fn))
	}
	mux.HandleFunc("/", s.call(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return nil, &statusError{http.StatusNotFound, fmt.Errorf("no such call: %s %s", r.Method, r.URL.Path)}
	}))
	return mux
}

// statusError is an error with the HTTP status that it is answered with.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// call answers with what fn returns, as JSON. Nothing that fn does can end the process.
func (s *Server) call(fn func(w http.ResponseWriter, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := fn(w, r)
		status := http.StatusOK
		if err != nil {
			status, answer = statusOf(err), errorBody{err.Error()}
			if status == http.StatusInternalServerError {
				s.log.Error("an admin call failed", "call", r.Method+" "+r.URL.Path, "error", err)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		// An error here means that the client has left.
		_ = enc.Encode(answer)
	}
}

func statusOf(err error) int {
	var (
		withStatus *statusError
		name       *databases.NameError
		tooLarge   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &withStatus):
		return withStatus.status
	case errors.As(err, &name), errors.Is(err, invalid.Err), errors.Is(err, fs.ErrInvalid):
		return http.StatusBadRequest
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, pubsub.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrExist):
		return http.StatusConflict
	case errors.Is(err, pubsub.ErrClosed), errors.Is(err, databases.ErrClosed):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// decode reads one JSON object without unknown fields.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return &statusError{bodyStatus(err), fmt.Errorf("request body: %w", err)}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("request body: more than one JSON value")
	}
	return nil
}

func bodyStatus(err error) int {
	if status := statusOf(err); status == http.StatusRequestEntityTooLarge {
		return status
	}
	return http.StatusBadRequest
}

func (s *Server) info(http.ResponseWriter, *http.Request) (any, error) {
	info := s.opts.Info()
	info.PID = os.Getpid()
	var err error
	info.Databases, err = s.opts.Databases.Databases()
	return info, err
}

func (s *Server) ready(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.opts.Ready(r.Context()); err != nil {
		return nil, &statusError{http.StatusServiceUnavailable, err}
	}
	return struct{}{}, nil
}

func (s *Server) broker(ctx context.Context, bucket Bucket) (*pubsub.Broker, error) {
	bucket = bucket.WithDefaults()
	return s.opts.Databases.ExistingBroker(ctx, bucket.Database, bucket.Name)
}

func (s *Server) list(_ http.ResponseWriter, r *http.Request) (any, error) {
	var opts ListOptions
	if err := decode(r, &opts); err != nil {
		return nil, err
	}
	if opts.Limit < 0 || opts.Limit > MaxPageSize {
		return nil, badRequest("limit %d: allowed: 1 to %d", opts.Limit, MaxPageSize)
	}
	opts.Limit = cmp.Or(opts.Limit, pubsub.DefaultPageSize)
	broker, err := s.broker(r.Context(), opts.Bucket)
	if err != nil {
		return nil, err
	}
	return page(r.Context(), broker, opts)
}

// page puts a page together in small steps, so that it takes little more memory than its payloads, or than its
// metadata where those were not asked for.
func page(ctx context.Context, broker *pubsub.Broker, opts ListOptions) (DeadLetterPage, error) {
	out := DeadLetterPage{DeadLetters: []DeadLetter{}}
	filter := pubsub.DeadLetterFilter{Topic: opts.Topic, Group: opts.Group, Since: opts.Since, Text: opts.Text, After: opts.After}
	for bytes := 0; ; {
		// One more than fits reports whether there is a next page.
		filter.Limit = min(readStep, opts.Limit-len(out.DeadLetters)+1)
		letters, err := broker.DeadLetters(ctx, filter)
		if err != nil {
			return out, err
		}
		for i := range letters {
			if len(out.DeadLetters) == opts.Limit || opts.Data && bytes > 0 && bytes+len(letters[i].Event.Data) > maxPageBytes {
				out.Next = filter.After
				return out, nil
			}
			d, err := newDeadLetter(opts.Bucket, &letters[i], opts.Data)
			if err != nil {
				return out, fmt.Errorf("dead letter %d: %w", letters[i].ID, err)
			}
			out.DeadLetters = append(out.DeadLetters, d)
			bytes += len(letters[i].Event.Data)
			filter.After = d.ID
		}
		if len(letters) < filter.Limit {
			return out, nil
		}
	}
}

func (s *Server) show(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req idRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	broker, err := s.broker(r.Context(), req.Bucket)
	if err != nil {
		return nil, err
	}
	d, err := broker.DeadLetter(r.Context(), req.ID)
	if err != nil {
		return nil, err
	}
	return newDeadLetter(req.Bucket, &d, true)
}

func (s *Server) ids(r *http.Request) (*pubsub.Broker, idsRequest, error) {
	var req idsRequest
	if err := decode(r, &req); err != nil {
		return nil, req, err
	}
	if len(req.IDs) == 0 || len(req.IDs) > MaxIDs {
		return nil, req, badRequest("ids: there are %d: allowed: 1 to %d in one call", len(req.IDs), MaxIDs)
	}
	req.Bucket = req.WithDefaults()
	broker, err := s.broker(r.Context(), req.Bucket)
	return broker, req, err
}

func (s *Server) redrive(_ http.ResponseWriter, r *http.Request) (any, error) {
	broker, req, err := s.ids(r)
	if err != nil {
		return nil, err
	}
	moved, err := broker.Redrive(r.Context(), req.IDs)
	if err != nil {
		return nil, err
	}
	result := RedriveResult{Redriven: make([]uint64, len(moved))}
	for i := range moved {
		result.Redriven[i] = moved[i].ID
	}
	if result.Unreadable, err = unreadable(r.Context(), broker, req.IDs, result.Redriven); err != nil {
		return nil, err
	}
	s.log.Info("dead letters were redriven", "database", req.Database, "bucket", req.Name, "count", len(moved))
	return result, nil
}

// unreadable returns those of ids, but for done, that are dead letters which cannot be decoded.
func unreadable(ctx context.Context, broker *pubsub.Broker, ids, done []uint64) (found []uint64, err error) {
	for _, id := range ids {
		if slices.Contains(done, id) {
			continue
		}
		d, err := broker.DeadLetter(ctx, id)
		switch {
		case errors.Is(err, pubsub.ErrNotFound):
		case err != nil:
			return nil, err
		case d.Event.Unreadable != "":
			found = append(found, id)
		}
	}
	return found, nil
}

func (s *Server) purge(_ http.ResponseWriter, r *http.Request) (any, error) {
	broker, req, err := s.ids(r)
	if err != nil {
		return nil, err
	}
	n, err := broker.Purge(r.Context(), req.IDs)
	if err != nil {
		return nil, err
	}
	s.log.Info("dead letters were purged", "database", req.Database, "bucket", req.Name, "count", n)
	return PurgeResult{Purged: n}, nil
}

func (s *Server) buckets(_ http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.opts.Databases.Brokers(r.Context())
	answer := Buckets{Buckets: make([]Bucket, len(all)), Missing: text(err)}
	for i, b := range all {
		answer.Buckets[i] = Bucket{b.Database, b.Bucket}
	}
	return answer, nil
}

// topics counts the bucket that is named, or all of them if none is.
func (s *Server) topics(_ http.ResponseWriter, r *http.Request) (any, error) {
	var bucket Bucket
	if err := decode(r, &bucket); err != nil {
		return nil, err
	}
	answer := Topics{Topics: []TopicStats{}}
	var counted []databases.OpenBroker
	if bucket == (Bucket{}) {
		var err error
		counted, err = s.opts.Databases.Brokers(r.Context())
		answer.Missing = text(err)
	} else {
		bucket = bucket.WithDefaults()
		broker, err := s.broker(r.Context(), bucket)
		if err != nil {
			return nil, err
		}
		counted = []databases.OpenBroker{{Database: bucket.Database, Bucket: bucket.Name, Broker: broker}}
	}
	for _, b := range counted {
		stats, err := b.Broker.Stats(r.Context())
		if err != nil {
			return nil, err
		}
		for _, t := range stats {
			if t.Groups == nil {
				t.Groups = []pubsub.GroupStats{}
			}
			answer.Topics = append(answer.Topics, TopicStats{Bucket{b.Database, b.Bucket}, t})
		}
	}
	return answer, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *Server) removeGroup(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req removeGroupRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	req.Bucket = req.WithDefaults()
	broker, err := s.broker(r.Context(), req.Bucket)
	if err != nil {
		return nil, err
	}
	if err := broker.RemoveGroup(r.Context(), req.Topic, req.Group); err != nil {
		return nil, err
	}
	s.log.Info("a consumer group was removed", "database", req.Database, "bucket", req.Name, "topic", req.Topic, "group", req.Group)
	return struct{}{}, nil
}

func (s *Server) backup(w http.ResponseWriter, r *http.Request) (any, error) {
	var req backupRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if req.Database == "" {
		req.Database = databases.DefaultDatabase
	}
	// A large file takes longer than any other call.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := s.opts.Databases.Backup(r.Context(), req.Database, req.Path); err != nil {
		return nil, err
	}
	info, err := os.Stat(req.Path)
	if err != nil {
		return nil, err
	}
	s.log.Info("a database was backed up", "database", req.Database, "path", req.Path, "bytes", info.Size())
	return BackupResult{Database: req.Database, Path: req.Path, Size: info.Size()}, nil
}
