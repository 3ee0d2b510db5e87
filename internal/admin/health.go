package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// scrapeTimeout bounds what one scrape of the metrics may cost, and scrapesAtOnce how many run side by side.
const (
	scrapeTimeout = 10 * time.Second
	scrapesAtOnce = 2
)

// HealthOptions for ListenHealth.
type HealthOptions struct {
	// Addr is host:port to listen on. Required.
	Addr string
	// Ready says what keeps the process from serving, or nil. Required.
	Ready func(ctx context.Context) error
	// Metrics is what /metrics shows. Required.
	Metrics prometheus.Gatherer
	// Console returns what answers everything else, given the address of the listener. Default: nothing does.
	Console func(addr string) (http.Handler, error)
	// Logger hears of scrapes that failed. Default: slog.Default().
	Logger *slog.Logger
}

// Health is the HTTP listener for probes and metrics, and the console. Nothing that it answers for itself holds a payload
// or changes anything.
type Health struct {
	addr     net.Addr
	endpoint *endpoint
}

// ListenHealth serves /healthz (the process is up), /readyz (it serves and can write its databases) and /metrics (for
// Prometheus). The caller must Stop it.
func ListenHealth(ctx context.Context, opts HealthOptions) (*Health, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", opts.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen for health and metrics on %s: another process listens there: choose another address, or an empty one for none: %w", opts.Addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for health and metrics on %s: %w", opts.Addr, err)
	}

	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	health.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answer(w, opts.Ready(r.Context())) })
	health.Handle("GET /metrics", promhttp.HandlerFor(opts.Metrics, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(opts.Logger.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
	}))
	mux := http.NewServeMux()
	// With any method: the console must not answer for these.
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, health)
	}
	if opts.Console != nil {
		console, err := opts.Console(l.Addr().String())
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		mux.Handle("/", console)
	}
	return &Health{addr: l.Addr(), endpoint: serve(access.NewListener(l, access.Options{MaxConnections: maxConnections, Logger: opts.Logger}), mux, opts.Logger)}, nil
}

// Addr is where it listens, with the port that the system chose where Addr asked for port 0.
func (h *Health) Addr() string { return h.addr.String() }

// Stop waits for running calls, which it cuts off when ctx ends.
func (h *Health) Stop(ctx context.Context) error {
	if err := h.endpoint.stop(ctx); err != nil {
		return fmt.Errorf("stop the health listener: %w", err)
	}
	return nil
}

func answer(w http.ResponseWriter, problem error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if problem != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = problem.Error()
	}
	// An error here means that the client has left.
	_, _ = io.WriteString(w, text+"\n")
}
