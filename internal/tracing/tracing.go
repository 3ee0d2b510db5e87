// Package tracing exports spans by OTLP where OpenTelemetry's standard environment variables ask for it
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Nothing that is wrong with them, or
// with who takes the spans, keeps the process from its work.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/jonboulle/clockwork"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

// The variables that are read here. The SDK reads the others: those of the sampler, the batches, the resource, and what
// the exporters need.
const (
	disabledVariable       = "OTEL_SDK_DISABLED"
	exporterVariable       = "OTEL_TRACES_EXPORTER"
	endpointVariable       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpointVariable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	protocolVariable       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProtocolVariable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
)

const (
	// name is the service's, unless OTEL_SERVICE_NAME says otherwise, and that of who makes the spans.
	name = "dapr-bolt"
	// failureEvery is how often the log says that spans are lost.
	failureEvery = 10 * time.Minute
	// flushWithin bounds how long Close waits for the last spans to be taken.
	flushWithin = 2 * time.Second
)

// Options for Open.
type Options struct {
	// Version of the program.
	Version string
	// Logger default: slog.Default().
	Logger *slog.Logger
	// Clock is what the log is throttled by. Default: the system's.
	Clock clockwork.Clock
}

// Export brings spans to who takes them, in the background. Those that find the queue full are dropped. A nil Export is
// one that nobody has asked for.
type Export struct {
	provider *sdktrace.TracerProvider
	log      *slog.Logger
	clock    clockwork.Clock

	mu       sync.Mutex
	failures throttled.Log
}

// Open returns nil unless the environment asks for spans. What it asks for and cannot be had is logged. It sets
// OpenTelemetry's logger and error handler, which are the process's. The caller must Close what it returns.
func Open(ctx context.Context, opts Options) *Export {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Clock == nil {
		opts.Clock = clockwork.NewRealClock()
	}
	if !wanted(opts.Logger) {
		return nil
	}
	e := &Export{log: opts.Logger, clock: opts.Clock}
	otel.SetLogger(logr.FromSlogHandler(opts.Logger.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(e.failed))
	protocol := cmp.Or(os.Getenv(tracesProtocolVariable), os.Getenv(protocolVariable), "http/protobuf")
	exporter, err := newExporter(ctx, protocol)
	if err != nil {
		opts.Logger.Warn("spans are not exported", "error", err)
		return nil
	}
	// Of an error, what can be understood is in the resource all the same.
	described, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(name), semconv.ServiceVersion(opts.Version)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv())
	if err != nil {
		opts.Logger.Warn("not all of OTEL_RESOURCE_ATTRIBUTES can be understood", "error", err)
	}
	e.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	opts.Logger.Info("spans are exported", "protocol", protocol,
		"endpoint", cmp.Or(os.Getenv(tracesEndpointVariable), os.Getenv(endpointVariable), "the protocol's own"))
	return e
}

// wanted reports whether the environment asks for spans by OTLP.
func wanted(log *slog.Logger) bool {
	if strings.EqualFold(os.Getenv(disabledVariable), "true") {
		return false
	}
	exporters := os.Getenv(exporterVariable)
	if exporters == "" {
		return os.Getenv(endpointVariable) != "" || os.Getenv(tracesEndpointVariable) != ""
	}
	if list := strings.Split(exporters, ","); slices.Contains(list, "otlp") {
		return true
	} else if !slices.Contains(list, "none") {
		log.Warn("spans are not exported: they can be by OTLP only", exporterVariable, exporters, "allowed", "otlp or none")
	}
	return false
}

func newExporter(ctx context.Context, protocol string) (*otlptrace.Exporter, error) {
	switch protocol {
	case "grpc":
		return otlptracegrpc.New(ctx)
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	}
	return nil, fmt.Errorf("%s is %q: grpc and http/protobuf are allowed", protocolVariable, protocol)
}

// failed logs what the SDK could not do, and what of it is the same for as long as nobody takes the spans only once in a
// while.
func (e *Export) failed(err error) {
	e.mu.Lock()
	suppressed, ok := e.failures.Allow(e.clock.Now(), failureEvery)
	e.mu.Unlock()
	if ok {
		e.log.Warn("spans could not be exported and are lost", "error", err, "suppressed", suppressed)
	}
}

// Tracer makes the spans; nil: nobody has asked for any.
func (e *Export) Tracer() trace.Tracer {
	if e == nil {
		return nil
	}
	return e.provider.Tracer(name)
}

// Close exports what was made, for two seconds at most or until ctx ends. What is left then is lost, which is logged and is
// no error: the data do not depend on it.
func (e *Export) Close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	if err := e.provider.Shutdown(ctx); err != nil {
		e.log.Warn("the last spans could not be exported and are lost", "error", err)
	}
	return nil
}
