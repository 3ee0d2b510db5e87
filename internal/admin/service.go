package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// ServiceOptions for NewService; the zero value of each that is not required is the documented default.
type ServiceOptions struct {
	// Databases is what the calls work on. Required.
	Databases *databases.Manager
	// Ready says what keeps the process from serving, or nil. Required.
	Ready func(ctx context.Context) error
	// Info describes the process; PID and Databases are filled in. Required.
	Info func() Info
	// Sidecars knows who is connected. Default: nobody is.
	Sidecars *sidecars.Registry
	// Metrics are read now and then, for Overview.Rates and those of topics. Default: there are no rates.
	Metrics *metrics.Metrics
	// Clock default: the system's.
	Clock clockwork.Clock
	// Logger hears of changes that people made. Default: slog.Default().
	Logger *slog.Logger
}

// Service is what people can see of a running process, and do to it. Its methods may be called from any goroutine. StatusOf
// says of what kind their errors are.
type Service struct {
	opts ServiceOptions
	jobs jobs

	// ratesMu guards what was read of the counters, the oldest first.
	ratesMu       sync.Mutex
	readings      []reading
	topicReadings []topicReading
}

// NewService returns a Service. The caller must Close it.
func NewService(opts ServiceOptions) *Service {
	opts.Clock = cmp.Or[clockwork.Clock](opts.Clock, clockwork.NewRealClock())
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	s := &Service{opts: opts}
	s.jobs.ctx, s.jobs.cancel = context.WithCancel(context.Background())
	if opts.Metrics != nil {
		s.jobs.wg.Go(func() { s.watchRates(s.jobs.ctx) })
	}
	return s
}

type byKey struct{}

// By returns a context for calls on somebody's behalf, who is named in the log of what was changed. Default: the command
// line.
func By(ctx context.Context, who string) context.Context { return context.WithValue(ctx, byKey{}, who) }

// changed logs what somebody has changed, in a bucket unless that is the zero value.
func (s *Service) changed(ctx context.Context, what string, in Bucket, attributes ...any) {
	who, ok := ctx.Value(byKey{}).(string)
	if !ok {
		who = "the command line"
	}
	if in != (Bucket{}) {
		attributes = append(attributes, "database", in.Database, "bucket", in.Name)
	}
	s.opts.Logger.Info(what, append(attributes, "by", who)...)
}

// done is the end of a call that changes something: it logs that, unless it failed.
func (s *Service) done(ctx context.Context, err error, what string, in Bucket, attributes ...any) (Empty, error) {
	if err == nil {
		s.changed(ctx, what, in, attributes...)
	}
	return Empty{}, err
}

// refusal is an error with the HTTP status that it is answered with.
type refusal struct {
	status int
	err    error
}

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// Refuse returns an error of which StatusOf says that status.
func Refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Errorf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return Refuse(http.StatusBadRequest, format, args...)
}

// StatusOf returns the HTTP status that says of what kind a call's error is.
func StatusOf(err error) int {
	var (
		refused  *refusal
		name     *databases.NameError
		tooLarge *http.MaxBytesError
	)
	switch {
	case errors.As(err, &refused):
		return refused.status
	case errors.As(err, &tooLarge), errors.Is(err, statestore.ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, statestore.ErrETagMismatch):
		return http.StatusConflict
	case errors.As(err, &name), errors.Is(err, invalid.Err), errors.Is(err, fs.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, pubsub.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, fs.ErrExist), errors.Is(err, pubsub.ErrInFlight), errors.Is(err, pubsub.ErrTopicFull):
		return http.StatusConflict
	case errors.Is(err, pubsub.ErrClosed), errors.Is(err, databases.ErrClosed):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// pageSize returns how long a page is.
func pageSize(limit int) (int, error) {
	if limit < 0 || limit > MaxPageSize {
		return 0, badRequest("limit %d: allowed: 1 to %d", limit, MaxPageSize)
	}
	return cmp.Or(limit, DefaultPageSize), nil
}

// info describes the process.
func (s *Service) info(context.Context, Empty) (Info, error) {
	info := s.opts.Info()
	info.PID = os.Getpid()
	var err error
	info.Databases, err = s.opts.Databases.Databases()
	return info, err
}

// ready returns no error if the process serves and can write its databases, else what is wrong.
func (s *Service) ready(ctx context.Context, _ Empty) (Empty, error) {
	if err := s.opts.Ready(ctx); err != nil {
		return Empty{}, &refusal{http.StatusServiceUnavailable, err}
	}
	return Empty{}, nil
}

// buckets lists the buckets of the data directory.
func (s *Service) buckets(ctx context.Context, _ Empty) (Buckets, error) {
	all, err := s.opts.Databases.Brokers(ctx)
	stores, storesErr := s.opts.Databases.Stores(ctx)
	if err == nil {
		err = storesErr
	}
	answer := Buckets{Buckets: make([]Bucket, len(all)), State: make([]Bucket, len(stores)), Missing: text(err)}
	for i, b := range all {
		answer.Buckets[i] = Bucket{b.Database, b.Bucket}
	}
	for i, b := range stores {
		answer.State[i] = Bucket{b.Database, b.Bucket}
	}
	return answer, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// broker returns what works on a bucket of events, whose defaults are filled in.
func (s *Service) broker(ctx context.Context, bucket Bucket) (pubsub.Service, error) {
	return s.opts.Databases.ExistingBroker(ctx, bucket.Database, bucket.Name)
}

// backup writes a consistent copy of a database to a new file. It takes as long as the file is large.
func (s *Service) backup(ctx context.Context, request BackupRequest) (BackupResult, error) {
	request.Database = cmp.Or(request.Database, databases.DefaultDatabase)
	if err := s.opts.Databases.Backup(ctx, request.Database, request.Path); err != nil {
		return BackupResult{}, err
	}
	info, err := os.Stat(request.Path)
	if err != nil {
		return BackupResult{}, err
	}
	s.changed(ctx, "a database was backed up", Bucket{}, "database", request.Database, "path", request.Path, "bytes", info.Size())
	return BackupResult{Database: request.Database, Path: request.Path, Size: info.Size()}, nil
}

// cursor is where a page ends, as a text that nobody needs to understand.
func cursor(place any) string {
	raw, err := json.Marshal(place)
	if err != nil {
		panic(err) // places are of strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// parseCursor takes what cursor has made; nothing is the beginning.
func parseCursor(text string, into any) error {
	if text == "" {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return badRequest("after %q: allowed: what the page before says in next", text)
	}
	return nil
}
