package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// receiver is one of spans, by either protocol.
type receiver struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []received
}

type received struct {
	*otlp.Span
	resource map[string]string
}

// Export implements the gRPC service.
func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range req.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				r.spans = append(r.spans, received{span, texts(of.GetResource().GetAttributes())})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP is the same for OTLP/HTTP.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var spans collector.ExportTraceServiceRequest
	if err := errors.Join(err, proto.Unmarshal(body, &spans)); err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(req.URL.Path, err), http.StatusBadRequest)
		return
	}
	_, _ = r.Export(req.Context(), &spans)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// start returns the receiver's endpoint.
func (r *receiver) start(t *testing.T, protocol string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if protocol == "grpc" {
		server := grpc.NewServer()
		collector.RegisterTraceServiceServer(server, r)
		serve(t, func() error { return server.Serve(l) }, server.Stop)
	} else {
		server := &http.Server{Handler: r}
		serve(t, func() error { return server.Serve(l) }, func() { _ = server.Close() })
	}
	return "http://" + l.Addr().String()
}

// serve runs a server until the test ends.
func serve(t *testing.T, run func() error, stop func()) {
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = run()
	}()
	t.Cleanup(func() {
		stop()
		<-served
	})
}

// named returns the spans of that name.
func (r *receiver) named(name string) (spans []received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.GetName() == name {
			spans = append(spans, s)
		}
	}
	return spans
}

func texts(attributes []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range attributes {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}

// delivery is what an app saw of an event: the trace of the request, and of the CloudEvent.
type delivery struct{ header, event, id string }

// startApp runs an app that is subscribed to topic "orders" and fails the first delivery of each event.
func startApp(t *testing.T) (port int, seen func() []delivery) {
	var mu sync.Mutex
	var all []delivery
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]`)
	})
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var event struct{ ID, Traceparent string }
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		all = append(all, delivery{r.Header.Get("traceparent"), event.Traceparent, event.ID})
		mu.Unlock()
		if r.Header.Get("deliveryCount") == "1" {
			http.Error(w, "not yet", http.StatusInternalServerError)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: mux}
	serve(t, func() error { return server.Serve(l) }, func() { _ = server.Close() })
	return l.Addr().(*net.TCPAddr).Port, func() []delivery {
		mu.Lock()
		defer mu.Unlock()
		return append([]delivery(nil), all...)
	}
}

// An app's trace goes through dapr-bolt: what it publishes, each delivery of that, and what the subscriber does are one
// trace, with either protocol and with every engine. Nothing is exported before the process ends here: a clean stop
// brings what is left.
func TestSpansContinueTheTraceOfTheApp(t *testing.T) {
	for name, on := range map[string]struct {
		protocol   string
		components func(t *testing.T, h *harness.Harness) (bus, store []string)
	}{
		"grpc": {"grpc", func(*testing.T, *harness.Harness) (bus, store []string) { return nil, nil }},
		"http": {"http/protobuf", func(*testing.T, *harness.Harness) (bus, store []string) { return nil, nil }},
		"cluster": {"grpc", func(t *testing.T, h *harness.Harness) (bus, store []string) {
			nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
			etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
			return nats.Metadata(), etcd.Metadata()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spans := new(receiver)
			endpoint := spans.start(t, on.protocol)
			h, bolt, programs := harness.Start(t, harness.BoltOptions{Env: []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=" + on.protocol, "OTEL_BSP_SCHEDULE_DELAY=3600000",
				"OTEL_SERVICE_NAME=orders-store", "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test",
			}})
			bus, store := on.components(t, h)
			resources := h.Dir("resources")
			require.NoError(t, harness.WriteComponents(resources,
				harness.NewComponent("bus", "pubsub.bolt", append(bus, "backOff", "0s")...), harness.NewComponent("store", "state.bolt", store...)))
			tracing := filepath.Join(h.Dir(), "tracing.yaml")
			require.NoError(t, os.WriteFile(tracing, []byte(`{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: tracing}, spec: {tracing: {samplingRate: "1"}}}`), 0o600))
			port, seen := startApp(t)
			sidecar, err := h.StartDaprd(harness.DaprdOptions{
				Path: programs.Daprd, AppID: "shop", AppPort: port, Resources: []string{resources}, Args: []string{"--config", tracing},
			})
			require.NoError(t, err)
			require.NoError(t, sidecar.WaitReady(t.Context()))

			const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
			call := func(method, path string, body any) {
				t.Helper()
				answer, err := sidecar.Call(t.Context(), method, path, body, "traceparent", "00-"+traceID+"-"+spanID+"-01")
				require.NoError(t, err)
				require.NoError(t, answer.OK())
			}
			call(http.MethodPost, "/v1.0/publish/bus/orders?metadata.cloudevent.id=order-1", "secret")
			call(http.MethodPost, "/v1.0/state/store", []map[string]string{{"key": "secret", "value": "secret"}})
			call(http.MethodGet, "/v1.0/state/store/secret", nil)
			require.EventuallyWithT(t, func(c *assert.CollectT) { require.Len(c, seen(), 2) }, patience, 10*time.Millisecond)
			for _, d := range seen() {
				require.Contains(t, d.header, traceID)
				require.Contains(t, d.event, traceID)
				require.Equal(t, "order-1", d.id)
			}
			require.NoError(t, sidecar.Stop())
			require.NoError(t, bolt.Stop())

			_, parent, _ := strings.Cut(seen()[0].event, traceID+"-")
			parent, _, _ = strings.Cut(parent, "-")
			published, delivered := spans.named("publish orders"), spans.named("deliver orders")
			require.Len(t, published, 1)
			require.Len(t, delivered, 2)
			for _, span := range append(delivered, published...) {
				require.Equal(t, traceID, fmt.Sprintf("%x", span.GetTraceId()))
				require.Equal(t, parent, fmt.Sprintf("%x", span.GetParentSpanId()), "the span that the CloudEvent names")
				require.Equal(t, "order-1", texts(span.GetAttributes())["messaging.message.id"])
			}
			require.Equal(t, otlp.Span_SPAN_KIND_PRODUCER, published[0].GetKind())
			for i, span := range delivered {
				require.Equal(t, otlp.Span_SPAN_KIND_CONSUMER, span.GetKind())
				require.Equal(t, "shop", texts(span.GetAttributes())["messaging.consumer.group.name"])
				require.Equal(t, i == 0, span.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR)
			}
			require.Contains(t, delivered[0].GetStatus().GetMessage(), "not yet")
			require.Less(t, published[0].GetStartTimeUnixNano(), delivered[0].GetEndTimeUnixNano())

			state := append(spans.named("bulk_set state"), spans.named("set state")...)
			require.NotEmpty(t, state)
			require.NotEmpty(t, spans.named("get state"))
			require.Equal(t, "dapr_bolt", texts(state[0].GetAttributes())["db.system.name"])
			for _, span := range append(state, published...) {
				require.Equal(t, "orders-store", span.resource["service.name"])
				require.Equal(t, "test", span.resource["deployment.environment.name"])
				require.NotEmpty(t, span.resource["service.version"])
				require.NotContains(t, span.String(), "secret")
			}
		})
	}
}

// Nobody who takes the spans, or who takes them and never answers, costs the calls nothing, the log one line, and the stop
// no more than its bound. Nor does a setting that is not understood.
func TestSpansThatNobodyTakesHarmNothing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts what nobody reads
	require.NoError(t, err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	for name, on := range map[string]struct {
		env []string
		// logged is how often a line stands in the log.
		logged map[string]int
	}{
		"refused": {
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + closed.Addr().String(), "OTEL_EXPORTER_OTLP_TIMEOUT=50"},
			map[string]int{"spans could not be exported and are lost": 1},
		},
		"silent": {
			[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + silent.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
			map[string]int{"the last spans could not be exported and are lost": 1},
		},
		"unknown protocol": {
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"},
			map[string]int{`OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\"`: 1, "spans are exported": 0},
		},
		"unknown exporter": {
			[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_TRACES_EXPORTER=zipkin"},
			map[string]int{"by OTLP only": 1, "spans are exported": 0},
		},
		"none":     {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_TRACES_EXPORTER=none"}, map[string]int{"spans": 0}},
		"disabled": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_SDK_DISABLED=TRUE"}, map[string]int{"spans": 0}},
		"unsaid":   {nil, map[string]int{"spans": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := harness.ForTest(t)
			bolt := harness.StartBolt(t, h, harness.BoltOptions{Env: append(on.env, "OTEL_BSP_SCHEDULE_DELAY=10")})
			c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "store")
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.InitState(t.Context()))
			log := func() string {
				text, err := os.ReadFile(bolt.LogPath())
				require.NoError(t, err)
				return string(text)
			}
			for i := range 3000 { // more than the queue holds
				require.NoError(t, c.Set(t.Context(), fmt.Sprint(i%10), []byte("x")))
			}
			if name == "refused" {
				require.Eventually(t, func() bool { return strings.Contains(log(), "spans could not be exported") }, patience, 10*time.Millisecond)
				require.NoError(t, c.Set(t.Context(), "one more", []byte("x")))
			}
			require.NoError(t, bolt.Stop())
			for line, times := range on.logged {
				require.Equal(t, times, strings.Count(log(), line), "%s: %s", line, log())
			}
		})
	}
}
