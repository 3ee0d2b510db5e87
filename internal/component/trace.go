package component

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/tidwall/gjson"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The component is to Dapr what a client library is to an app, and so its spans are those that OpenTelemetry's conventions
// have for clients of a database and of a broker. They hold names and ids, and never a key, a value or a payload.

// tracedSystem is db.system.name and messaging.system.
const tracedSystem = "dapr_bolt"

// What the conventions have no name for.
const (
	attributeDatabase      = attribute.Key("dapr_bolt.database")
	attributeBucket        = attribute.Key("dapr_bolt.bucket")
	attributeDeliveryCount = attribute.Key("dapr_bolt.delivery.count")
)

// The fields of a CloudEvent, and metadata, that name the span which an event comes from
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md). Dapr gives events a
// traceid of the same content too, in some cases only that.
const (
	traceParentField = "traceparent"
	traceStateField  = "tracestate"
	traceIDField     = "traceid"
)

// maxTraced bounds a text in a span, in bytes.
const maxTraced = 256

// traced cuts a text that others have made, so that any span that holds it can be exported.
func traced(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxTraced)], "")
}

// traceCall makes the spans of a call that has ended. One that came to no initialized component has none.
func (s *Server) traceCall(ctx context.Context, c *call, req any, start time.Time, err error) {
	tracer := s.opts.Tracer
	switch {
	case tracer == nil:
	case c.store != nil:
		op, place := operations[c.method], c.store.place
		if op == "" {
			return
		}
		attributes := []attribute.KeyValue{
			semconv.DBSystemNameKey.String(tracedSystem),
			semconv.DBOperationName(string(op)),
			semconv.DBNamespace(place.Label()),
			semconv.DBCollectionName(place.Bucket),
		}
		if n := batchSize(req); n > 0 {
			attributes = append(attributes, semconv.DBOperationBatchSize(n))
		}
		_, span := tracer.Start(callersSpan(ctx), string(op)+" "+place.Bucket,
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start), trace.WithAttributes(attributes...))
		endTraced(span, err)
	case c.pubsub != nil:
		switch req := req.(type) {
		case *proto.PublishRequest:
			s.tracePublish(ctx, c.pubsub.place, start, req.GetTopic(), req.GetData(), req.GetMetadata(), err)
		case *proto.BulkPublishRequest:
			batch := semconv.MessagingBatchMessageCount(len(req.GetEntries()))
			for _, entry := range req.GetEntries() {
				s.tracePublish(ctx, c.pubsub.place, start, req.GetTopic(), entry.GetEvent(), entry.GetMetadata(), err, batch)
			}
		}
	}
}

// batchSize is how many operations a call has that may have many, or 0.
func batchSize(req any) int {
	switch r := req.(type) {
	case *proto.BulkGetRequest:
		return len(r.GetItems())
	case *proto.BulkSetRequest:
		return len(r.GetItems())
	case *proto.BulkDeleteRequest:
		return len(r.GetItems())
	case *proto.TransactionalStateRequest:
		return len(r.GetOperations())
	}
	return 0
}

// tracePublish makes the span of one event, which is part of the trace that the event says it is part of.
func (s *Server) tracePublish(ctx context.Context, place servers.Place, start time.Time, topic string, data []byte, meta map[string]string, err error, more ...attribute.KeyValue) {
	attributes := append(eventAttributes(place, topic, data),
		semconv.MessagingOperationName("publish"),
		semconv.MessagingOperationTypeSend)
	if id := cmp.Or(property(meta, keyEventID), gjson.GetBytes(data, "id").String()); id != "" {
		attributes = append(attributes, semconv.MessagingMessageID(traced(id)))
	}
	_, span := s.opts.Tracer.Start(eventsSpan(callersSpan(ctx), data, meta), "publish "+traced(topic),
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(start), trace.WithAttributes(attributes...), trace.WithAttributes(more...))
	endTraced(span, err)
}

func eventAttributes(place servers.Place, topic string, data []byte) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingSystemKey.String(tracedSystem),
		semconv.MessagingDestinationName(traced(topic)),
		semconv.MessagingMessageBodySize(len(data)),
		attributeDatabase.String(place.Label()),
		attributeBucket.String(place.Bucket),
	}
}

// endTraced ends the span of a call with its outcome, as the metrics name it.
func endTraced(span trace.Span, err error) {
	if outcome, _ := classify(status.Code(err)); outcome != metrics.OK {
		span.SetAttributes(semconv.ErrorTypeKey.String(outcome.String()))
		span.SetStatus(otelcodes.Error, traced(status.Convert(err).Message()))
	}
	span.End()
}

// eventsSpan returns ctx in the span that an event comes from: what its CloudEvent says or else, as of one that has no
// envelope, its metadata.
func eventsSpan(ctx context.Context, data []byte, meta map[string]string) context.Context {
	parent := gjson.GetBytes(data, traceParentField).String()
	if parent == "" {
		parent = gjson.GetBytes(data, traceIDField).String()
	}
	state := gjson.GetBytes(data, traceStateField).String()
	if parent == "" {
		parent, state = property(meta, traceParentField), property(meta, traceStateField)
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceParentField: parent, traceStateField: state})
}

// callersSpan returns ctx in the span that a call comes from, if the sidecar says so. It has a binary form for that too,
// which never comes without this one (pkg/diagnostics/grpc_tracing.go, SpanContextToGRPCMetadata).
func callersSpan(ctx context.Context) context.Context {
	sent, _ := metadata.FromIncomingContext(ctx)
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		traceParentField: strings.Join(sent.Get(traceParentField), ","),
		traceStateField:  strings.Join(sent.Get(traceStateField), ","),
	})
}

// deliverySpans are the spans of a stream's deliveries, each from when the event is handed over to its end. A nil one makes
// none. Its methods may be called from any goroutine.
type deliverySpans struct {
	tracer trace.Tracer
	place  servers.Place
	group  string

	mu sync.Mutex
	// open are those of deliveries that have not ended, by number.
	open map[uint64]trace.Span
}

// traceDeliveries returns what makes the spans of a group's subscription, or nil.
func (s *Server) traceDeliveries(place servers.Place, group string) *deliverySpans {
	if s.opts.Tracer == nil {
		return nil
	}
	return &deliverySpans{tracer: s.opts.Tracer, place: place, group: group, open: make(map[uint64]trace.Span)}
}

// begin is called before the event goes out.
func (s *deliverySpans) begin(d *pubsub.Delivery) {
	if s == nil {
		return
	}
	e := &d.Event
	attributes := append(eventAttributes(s.place, e.Topic, e.Data),
		semconv.MessagingOperationName("deliver"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingConsumerGroupName(s.group),
		attributeDeliveryCount.Int(d.Count))
	if e.ID != "" {
		attributes = append(attributes, semconv.MessagingMessageID(traced(e.ID)))
	}
	_, span := s.tracer.Start(eventsSpan(context.Background(), e.Data, e.Metadata), "deliver "+traced(e.Topic),
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...))
	if !span.IsRecording() {
		return
	}
	s.mu.Lock()
	s.open[d.Number] = span
	s.mu.Unlock()
	// Nobody answers for a delivery whose ackWait runs out.
	context.AfterFunc(d.Context(), func() { answered(s.take(d.Number), nil, false) })
}

// take returns the span of a delivery that is about to be answered, for answered; nil: there is none.
func (s *deliverySpans) take(number uint64) trace.Span {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	span := s.open[number]
	delete(s.open, number)
	return span
}

// close ends the spans that are left when the stream is over.
func (s *deliverySpans) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, span := range s.open {
		delete(s.open, number)
		answered(span, nil, false)
	}
}

// answered ends the span of a delivery, which may be nil, with what the app answered in time, or too late or never.
func answered(span trace.Span, failure *proto.AckMessageError, inTime bool) {
	if span == nil {
		return
	}
	switch {
	case !inTime:
		span.SetAttributes(semconv.ErrorTypeKey.String("unanswered"))
		span.SetStatus(otelcodes.Error, "ended without an answer: its ackWait ran out, or its stream ended")
	case failure != nil:
		span.SetAttributes(semconv.ErrorTypeKey.String("failed"))
		span.SetStatus(otelcodes.Error, traced(failure.GetMessage()))
	}
	span.End()
}
