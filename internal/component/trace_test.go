package component

import (
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

const (
	tracedTrace = "0af7651916cd43dd8448eb211c80319c"
	tracedSpan  = "b7ad6b7169203331"
	traceParent = "00-" + tracedTrace + "-" + tracedSpan + "-01"
)

// tracedHouse is a house whose spans can be looked at.
func tracedHouse(t *testing.T, change ...func(*house)) (*house, *tracetest.InMemoryExporter) {
	made := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(made))
	return newHouse(t, append(change, func(h *house) {
		h.options = func(o *Options) { o.Tracer = provider.Tracer("test") }
	})...), made
}

// spansNamed waits for n spans of that name and returns them.
func spansNamed(t *testing.T, made *tracetest.InMemoryExporter, n int, name string) (spans []tracetest.SpanStub) {
	t.Helper()
	require.Eventually(t, func() bool {
		spans = nil
		for _, s := range made.GetSpans() {
			if s.Name == name {
				spans = append(spans, s)
			}
		}
		return len(spans) == n
	}, patience, time.Millisecond, "%d spans %q", n, name)
	return spans
}

func attributeOf(s tracetest.SpanStub, key attribute.Key) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.Emit()
		}
	}
	return ""
}

// An event's spans are children of the span that it comes from, wherever that is told.
func TestSpansOfAnEventContinueItsTrace(t *testing.T) {
	h, made := tracedHouse(t)
	c := h.bus("bus", "consumerID", "app")
	s := c.pull(t, "orders", "consumerID", "another")
	ours := strings.Repeat("1", 32)
	ctx := metadata.AppendToOutgoingContext(c.ctx, "traceparent", "00-"+ours+"-"+tracedSpan+"-01")
	for name, event := range map[string]*proto.PublishRequest{
		"traceparent": {Data: []byte(`{"specversion": "1.0", "id": "traceparent", "traceparent": "` + traceParent + `", "tracestate": "a=b", "data": {"traceparent": "x"}}`)},
		"traceid":     {Data: []byte(`{"specversion": "1.0", "id": "traceid", "traceid": "` + traceParent + `", "tracestate": "a=b"}`)},
		"metadata":    {Data: []byte("raw"), Metadata: map[string]string{"Traceparent": traceParent, "tracestate": "a=b", "eventID": "metadata"}},
	} {
		made.Reset()
		event.Topic = "orders"
		_, err := c.pubsub.Publish(ctx, event)
		require.NoError(t, err)
		s.ack(s.next().GetId())
		published, delivered := spansNamed(t, made, 1, "publish orders")[0], spansNamed(t, made, 1, "deliver orders")[0]
		for _, span := range []tracetest.SpanStub{published, delivered} {
			require.Equal(t, tracedTrace, span.SpanContext.TraceID().String(), name)
			require.Equal(t, tracedSpan, span.Parent.SpanID().String(), name)
			require.Equal(t, "a=b", span.Parent.TraceState().String(), name)
			require.Equal(t, otelcodes.Unset, span.Status.Code, name)
			require.Equal(t, name, attributeOf(span, "messaging.message.id"))
			require.Equal(t, "dapr_bolt", attributeOf(span, "messaging.system"))
			require.Equal(t, "orders", attributeOf(span, "messaging.destination.name"))
			require.Equal(t, fmt.Sprint(len(event.Data)), attributeOf(span, "messaging.message.body.size"))
			require.Equal(t, "dapr", attributeOf(span, attributeDatabase))
			require.Equal(t, "pubsub", attributeOf(span, attributeBucket))
		}
		require.Equal(t, trace.SpanKindProducer, published.SpanKind)
		require.Equal(t, trace.SpanKindConsumer, delivered.SpanKind)
		require.Equal(t, "another", attributeOf(delivered, "messaging.consumer.group.name"))
		require.Equal(t, "1", attributeOf(delivered, attributeDeliveryCount))
	}
}

// A bulk publish is a span of each of its events.
func TestSpansOfABulkPublish(t *testing.T) {
	h, made := tracedHouse(t)
	c := h.bus("bus", "consumerID", "app")
	entry := func(id, parent string) *proto.BulkMessageEntry {
		return &proto.BulkMessageEntry{EntryId: id, Event: []byte(`{"id": "` + id + `", "traceparent": "` + parent + `"}`)}
	}
	_, err := c.pubsub.BulkPublish(c.ctx, &proto.BulkPublishRequest{Topic: "orders", Entries: []*proto.BulkMessageEntry{entry("1", traceParent), entry("2", "nonsense")}})
	require.NoError(t, err)
	spans := spansNamed(t, made, 2, "publish orders")
	require.Equal(t, tracedTrace, spans[0].SpanContext.TraceID().String())
	require.False(t, spans[1].Parent.IsValid())
	for i, span := range spans {
		require.Equal(t, fmt.Sprint(i+1), attributeOf(span, "messaging.message.id"))
		require.Equal(t, "2", attributeOf(span, "messaging.batch.message_count"))
	}
}

// State calls have spans of their own, or such as the sidecar asks for. None holds a key or a value.
func TestSpansOfStateCalls(t *testing.T) {
	h, made := tracedHouse(t)
	c := h.store("store")
	require.NoError(t, c.set("secret-key", "secret-value"))
	set := spansNamed(t, made, 1, "set state")[0]
	require.False(t, set.Parent.IsValid())
	require.Equal(t, trace.SpanKindClient, set.SpanKind)
	require.Equal(t, "set", attributeOf(set, "db.operation.name"))
	require.Equal(t, "dapr", attributeOf(set, "db.namespace"))
	require.Equal(t, "state", attributeOf(set, "db.collection.name"))
	require.Positive(t, set.EndTime.Sub(set.StartTime))

	made.Reset()
	_, err := c.Get(metadata.AppendToOutgoingContext(c.ctx, "traceparent", traceParent), &proto.GetRequest{Key: "secret-key"})
	require.NoError(t, err)
	get := spansNamed(t, made, 1, "get state")[0]
	require.Equal(t, tracedTrace, get.SpanContext.TraceID().String())
	require.Equal(t, tracedSpan, get.Parent.SpanID().String())

	_, err = c.Set(c.ctx, &proto.SetRequest{Key: "secret-key", Value: []byte("x"), Etag: &proto.Etag{Value: "99"}})
	require.Error(t, err)
	set = spansNamed(t, made, 1, "set state")[0]
	require.Equal(t, otelcodes.Error, set.Status.Code)
	require.Equal(t, "conflict", attributeOf(set, "error.type"))
	_, err = c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: "a"}, {Key: "b"}}})
	require.NoError(t, err)
	require.Equal(t, "2", attributeOf(spansNamed(t, made, 1, "bulk_get state")[0], "db.operation.batch.size"))
	for _, span := range made.GetSpans() {
		require.NotContains(t, fmt.Sprint(span.Attributes, span.Name), "secret")
	}
}

// A delivery's span ends as the delivery does.
func TestSpansOfDeliveriesThatFail(t *testing.T) {
	clock := clockwork.NewFakeClock()
	h, made := tracedHouse(t, func(h *house) { h.clock = clock })
	c := h.bus("bus", "consumerID", "app", "backOff", "0", "ackWait", "5s")
	s := c.pull(t, "orders")
	require.NoError(t, c.publish("orders", `{"id": "`+strings.Repeat("x", 1<<10)+"\xff"+`", "specversion": "1.0"}`))
	delivered := func() tracetest.SpanStub {
		t.Helper()
		defer made.Reset()
		return spansNamed(t, made, 1, "deliver orders")[0]
	}

	s.nack(s.next().GetId(), strings.Repeat("ü", 1<<20))
	span := delivered()
	require.Equal(t, otelcodes.Error, span.Status.Code)
	require.Equal(t, strings.Repeat("ü", maxTraced/2), span.Status.Description)
	require.Equal(t, "failed", attributeOf(span, "error.type"))
	require.Len(t, attributeOf(span, "messaging.message.id"), maxTraced)

	late := s.next()
	clock.Advance(5 * time.Second)
	span = delivered()
	require.Equal(t, "unanswered", attributeOf(span, "error.type"))
	require.Equal(t, "2", attributeOf(span, attributeDeliveryCount))
	s.nack(late.GetId(), "too late")

	s.next()
	s.cancel()
	require.Equal(t, "unanswered", attributeOf(delivered(), "error.type"))
}

func TestTracedText(t *testing.T) {
	require.Equal(t, "ab", traced("a\xffb"))
	require.Equal(t, strings.Repeat("x", maxTraced-1), traced(strings.Repeat("x", maxTraced-1)+"ü"))
}
