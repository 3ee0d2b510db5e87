package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/dapr/components-contrib/health"
	contribpubsub "github.com/dapr/components-contrib/pubsub"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// MaxEventSize bounds an event, its data, metadata, topic and content type together, in bytes: a larger delivery would
// end the stream, and with it the subscription, for good.
const MaxEventSize = receiveLimit - deliveryMargin

// deliveryMargin is more than a delivery adds to what was published: an id, and the metadata that tells the app of the
// delivery.
const deliveryMargin = 4 << 10

// maxDelivery is what a delivery may have, in bytes, before it gets its id.
const maxDelivery = receiveLimit - 64

// PubSub is Dapr's pub/sub component on a Backend. Its methods may be called from any goroutine once Init has returned.
//
// A handler is called with one event at a time, in order; its error counts as a failed delivery, and its text is kept.
type PubSub struct {
	backend Backend
	log     *slog.Logger
	clock   clockwork.Clock
	metrics *metrics.Metrics
	// publisher is nil before Init.
	publisher atomic.Pointer[metrics.Publisher]

	mu            sync.Mutex
	broker        pubsub.Service // nil before Init
	config        pubsubConfig
	subscriptions map[pubsub.Subscription]struct{}
	paused        bool
	closed        bool
	// running counts the subscriptions.
	running sync.WaitGroup
}

var (
	_ contribpubsub.PubSub             = (*PubSub)(nil)
	_ contribpubsub.BulkPublisher      = (*PubSub)(nil)
	_ contribpubsub.PausableSubscriber = (*PubSub)(nil)
	_ health.Pinger                    = (*PubSub)(nil)
)

// NewPubSub returns a component that Init makes ready for use.
func NewPubSub(backend Backend, opts ComponentOptions) *PubSub {
	opts.setDefaults()
	return &PubSub{
		backend:       backend,
		log:           opts.Logger,
		clock:         opts.Clock,
		metrics:       opts.Metrics,
		subscriptions: make(map[pubsub.Subscription]struct{}),
	}
}

// Init opens the broker that the metadata names. Metadata that is not allowed is an invalid.Error.
func (p *PubSub) Init(ctx context.Context, metadata contribpubsub.Metadata) error {
	config, err := parsePubSubConfig(metadata.Properties)
	if err != nil {
		return fmt.Errorf("initialize pub/sub: %w", err)
	}
	if err := config.Publisher.check(); err != nil {
		return fmt.Errorf("initialize pub/sub: %w", err)
	}
	broker, err := p.open(ctx, &config.Publisher)
	if err != nil {
		return fmt.Errorf("initialize pub/sub: %w", err)
	}
	warnUnknown(p.log, metadata.Properties, PubSubMetadata())
	p.mu.Lock()
	p.broker, p.config = broker, config
	p.mu.Unlock()
	p.publisher.Store(p.metrics.Publisher(config.Publisher.label(), config.Publisher.Bucket))
	return nil
}

// Features lists what the pub/sub can do.
//
// A sidecar reads one event, and acknowledges it, before it reads the next from the same stream, so a batch that waits
// for more can never fill up: BULK_SUBSCRIBE_IMMEDIATE tells its bulk subscriber not to wait.
func (p *PubSub) Features() []contribpubsub.Feature {
	return []contribpubsub.Feature{
		contribpubsub.FeatureBulkPublish,
		contribpubsub.FeatureMessageTTL,
		contribpubsub.FeatureSubscribeWildcards,
		contribpubsub.FeatureBulkSubscribeImmediate,
	}
}

// Ping returns an error unless the broker's database can be had.
func (p *PubSub) Ping(ctx context.Context) error {
	_, config, err := p.ready()
	if err != nil {
		return err
	}
	_, err = p.open(ctx, &config.Publisher)
	return err
}

// open returns the broker that the metadata names.
func (p *PubSub) open(ctx context.Context, config *publisherConfig) (pubsub.Service, error) {
	if config.Events.Engine == engineNATS {
		return p.backend.NATSBroker(ctx, config.Events.Servers, config.Database, config.Bucket)
	}
	return p.backend.Broker(ctx, config.Database, config.Bucket)
}

func (p *PubSub) ready() (pubsub.Service, pubsubConfig, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, pubsubConfig{}, pubsub.ErrClosed
	case p.broker == nil:
		return nil, pubsubConfig{}, ErrNotInitialized
	}
	return p.broker, p.config, nil
}

// Publish returns nil when the event is on disk, now or since it was published before.
func (p *PubSub) Publish(ctx context.Context, req *contribpubsub.PublishRequest) error {
	broker, config, err := p.ready()
	if err != nil {
		return err
	}
	m, err := p.message(req.Topic, req.Data, required(req.ContentType), req.Metadata)
	if err != nil {
		return err
	}
	return broker.Publish(ctx, req.Topic, []pubsub.Message{m}, config.Publisher.Publish)[0]
}

// BulkPublish stores the entries in one commit, or none of them if one is refused. Each entry that was not stored is
// among the response's failed entries, and the error joins what was wrong. What the request's metadata says holds for
// entries that do not say otherwise, except for an event id, which can be that of one event only.
func (p *PubSub) BulkPublish(ctx context.Context, req *contribpubsub.BulkPublishRequest) (contribpubsub.BulkPublishResponse, error) {
	outcomes, err := p.bulkPublish(ctx, req)
	if err != nil {
		outcomes = make([]error, len(req.Entries))
		for i := range outcomes {
			outcomes[i] = err
		}
	}
	var response contribpubsub.BulkPublishResponse
	var causes []error
	for i, outcome := range outcomes {
		if outcome == nil {
			continue
		}
		id := req.Entries[i].EntryId
		response.FailedEntries = append(response.FailedEntries, contribpubsub.BulkPublishResponseFailedEntry{EntryId: id, Error: outcome})
		if err == nil && !errors.Is(outcome, pubsub.ErrOthersRefused) {
			causes = append(causes, fmt.Errorf("entry %q: %w", id, outcome))
		}
	}
	if err == nil {
		err = errors.Join(causes...)
	}
	return response, err
}

func (p *PubSub) bulkPublish(ctx context.Context, req *contribpubsub.BulkPublishRequest) ([]error, error) {
	broker, config, err := p.ready()
	if err != nil {
		return nil, err
	}
	if id := property(req.Metadata, keyEventID); id != "" && len(req.Entries) > 1 {
		return nil, invalid.New(keyEventID, id, "in the metadata of an entry, not of a whole bulk publish")
	}
	outcomes := make([]error, len(req.Entries))
	messages := make([]pubsub.Message, 0, len(req.Entries))
	for i := range req.Entries {
		entry := &req.Entries[i]
		metadata := entry.Metadata
		if len(req.Metadata) > 0 {
			metadata = make(map[string]string, len(req.Metadata)+len(entry.Metadata))
			for k, v := range req.Metadata {
				if property(entry.Metadata, k) == "" {
					metadata[k] = v
				}
			}
			for k, v := range entry.Metadata {
				metadata[k] = v
			}
		}
		m, err := p.message(req.Topic, entry.Event, entry.ContentType, metadata)
		if err != nil {
			outcomes[i] = err
			continue
		}
		messages = append(messages, m)
	}
	switch len(messages) {
	case 0:
		return outcomes, nil
	case len(outcomes):
		opts := config.Publisher.Publish
		// Since the whole call fails, all of it is sent again: what is stored now would be stored twice.
		opts.AllOrNothing = true
		return broker.Publish(ctx, req.Topic, messages, opts), nil
	}
	for i := range outcomes {
		if outcomes[i] == nil {
			outcomes[i] = pubsub.ErrOthersRefused
		}
	}
	return outcomes, nil
}

// message reads what a publish says about its event.
func (p *PubSub) message(topic string, data []byte, contentType string, metadata map[string]string) (pubsub.Message, error) {
	if publisher := p.publisher.Load(); publisher != nil {
		publisher.Event(len(data))
	}
	m := pubsub.Message{
		Data:         data,
		ContentType:  contentType,
		Metadata:     metadata,
		EventID:      property(metadata, keyEventID),
		PartitionKey: property(metadata, keyPartitionKey),
	}
	var err error
	if m.TTL, err = ttlInSeconds(metadata, 1); err != nil {
		return pubsub.Message{}, err
	}
	after, at := property(metadata, keyDeliverAfter), property(metadata, keyDeliverAt)
	switch {
	case after != "" && at != "":
		return pubsub.Message{}, invalid.New(keyDeliverAt, at, "one of "+keyDeliverAfter+" and "+keyDeliverAt)
	case after != "":
		var wait time.Duration
		if !parseWait(&wait, after) {
			return pubsub.Message{}, invalid.New(keyDeliverAfter, after, waitAllowed+", such as 30s")
		}
		m.DeliverAt = p.clock.Now().Add(wait)
	case at != "":
		if m.DeliverAt, err = time.Parse(time.RFC3339, at); err != nil {
			return pubsub.Message{}, invalid.New(keyDeliverAt, at, "a time in RFC 3339, such as 2026-01-31T12:00:00Z")
		}
	}
	return m, deliverable(&proto.PullMessagesResponse{Data: data, TopicName: topic, Metadata: metadata, ContentType: contentType}, MaxEventSize)
}

// deliverySize is what m takes on the wire. The protobuf package finds it out by reflection, with two allocations for each
// entry of the metadata.
func deliverySize(m *proto.PullMessagesResponse) int {
	field := func(length int) int { return 1 + protowire.SizeBytes(length) } // after a tag of one byte
	size := 0
	for _, length := range []int{len(m.GetData()), len(m.GetTopicName()), len(m.GetContentType()), len(m.GetId())} {
		if length > 0 {
			size += field(length)
		}
	}
	for k, v := range m.GetMetadata() {
		size += field(field(len(k)) + field(len(v)))
	}
	return size
}

// deliverable refuses what no stream could carry.
func deliverable(m *proto.PullMessagesResponse, limit int) error {
	if size := deliverySize(m); size > limit {
		return fmt.Errorf("%w: it has %d bytes, metadata included: at most %d are allowed", pubsub.ErrTooLarge, size, limit)
	}
	if !utf8.ValidString(m.GetContentType()) {
		return invalid.New("content type", m.GetContentType(), "UTF-8")
	}
	for k, v := range m.GetMetadata() {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return invalid.New("metadata "+strconv.Quote(k), v, "UTF-8")
		}
	}
	return nil
}

// Subscribe calls handler with each event until ctx ends or the component is closed.
func (p *PubSub) Subscribe(ctx context.Context, req contribpubsub.SubscribeRequest, handler contribpubsub.Handler) error {
	s, _, err := p.subscribe(ctx, "", req.Topic, req.Metadata)
	if err != nil {
		return err
	}
	go func() {
		defer p.unsubscribe(s)
		defer s.Close()
		// An event that is being handled must be put back when ctx ends, not only when its handler is done.
		defer context.AfterFunc(ctx, s.Close)()
		for {
			// Next fails only when ctx has ended or the subscription was closed.
			d, err := s.Next(ctx)
			if err != nil {
				return
			}
			switch err := handler(d.Context(), message(d)); {
			case err == nil:
				d.Ack()
			case ctx.Err() == nil:
				d.Nack(err.Error())
			}
		}
	}()
	return nil
}

// subscribe begins the subscription of an instance of an app, with a subscription's metadata, which may change that of the
// component: what holds is returned. The caller must close the subscription, and then unsubscribe.
func (p *PubSub) subscribe(ctx context.Context, instance, topic string, metadata map[string]string) (pubsub.Subscription, pubsubConfig, error) {
	broker, config, err := p.ready()
	if err != nil {
		return nil, config, err
	}
	overrides, err := parseProperties(metadata)
	if err != nil {
		return nil, config, fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	opts := &config.Consumer
	opts.Topic, opts.Instance = topic, instance
	if err := override(opts, consumerFields, overrides); err != nil {
		return nil, config, fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	warnUnknown(p.log, metadata, SubscriptionMetadata())
	s, err := broker.Subscribe(ctx, *opts)
	if err != nil {
		return nil, config, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.Close()
		return nil, config, pubsub.ErrClosed
	}
	p.subscriptions[s] = struct{}{}
	p.running.Add(1)
	if p.paused {
		s.Pause()
	}
	return s, config, nil
}

func (p *PubSub) unsubscribe(s pubsub.Subscription) {
	p.mu.Lock()
	delete(p.subscriptions, s)
	p.mu.Unlock()
	p.running.Done()
}

// Pause stops new deliveries to the component's subscriptions, present and future; what is in flight can still be handled.
func (p *PubSub) Pause(context.Context) error {
	p.setPaused(true)
	return nil
}

// Resume undoes Pause.
func (p *PubSub) Resume(context.Context) error {
	p.setPaused(false)
	return nil
}

func (p *PubSub) setPaused(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	for s := range p.subscriptions {
		if paused {
			s.Pause()
		} else {
			s.Resume()
		}
	}
}

// Close ends the component's subscriptions, puts back what they have in flight without counting it as delivered, and waits
// for handlers that are running; the context that they were given has ended. The Backend keeps the broker.
func (p *PubSub) Close() error {
	p.mu.Lock()
	p.closed = true
	open := make([]pubsub.Subscription, 0, len(p.subscriptions))
	for s := range p.subscriptions {
		open = append(open, s)
	}
	p.mu.Unlock()
	for _, s := range open {
		s.Close()
	}
	p.running.Wait()
	return nil
}

// message is a delivery as a handler gets it.
func message(d *pubsub.Delivery) *contribpubsub.NewMessage {
	e := &d.Event
	return &contribpubsub.NewMessage{Data: e.Data, Topic: e.Topic, Metadata: deliveryMetadata(d), ContentType: optional(e.ContentType)}
}

// deliveryMetadata is the event's metadata, and what tells the app of the delivery.
func deliveryMetadata(d *pubsub.Delivery) map[string]string {
	e := &d.Event
	metadata := make(map[string]string, len(e.Metadata)+3)
	for k, v := range e.Metadata {
		// A publisher's word on the delivery would become a second header of the same name.
		if !strings.EqualFold(k, keyDeliveryCount) && !strings.EqualFold(k, keySequence) && !strings.EqualFold(k, keyPublishTime) {
			metadata[k] = v
		}
	}
	metadata[keyDeliveryCount] = strconv.Itoa(d.Count)
	metadata[keySequence] = strconv.FormatUint(e.Sequence, 10)
	metadata[keyPublishTime] = e.PublishTime.UTC().Format(time.RFC3339Nano)
	return metadata
}
