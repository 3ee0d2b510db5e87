package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
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

// pubsubFeatures are in Dapr's words (components-contrib, pubsub/feature.go).
//
// A sidecar reads one event, and acknowledges it, before it reads the next from the same stream, so a batch that waits
// for more can never fill up: BULK_SUBSCRIBE_IMMEDIATE tells its bulk subscriber not to wait.
var pubsubFeatures = []string{"BULK_PUBSUB", "MESSAGE_TTL", "SUBSCRIBE_WILDCARDS", "BULK_SUBSCRIBE_IMMEDIATE"}

// pubsubService serves Dapr's protocol of pub/subs. A call is for the pub/sub that its connection has initialized
// (Server.bind). Its streams are in pull.go.
type pubsubService struct{ server *Server }

// pubSub is the broker that a component's metadata name, and the subscriptions of the one who initialized it.
type pubSub struct {
	broker  pubsub.Service
	config  pubsubConfig
	place   servers.Place
	clock   clockwork.Clock
	log     *slog.Logger
	metrics *metrics.Publisher

	mu            sync.Mutex
	subscriptions map[pubsub.Subscription]pubsub.SubscribeOptions
	paused        bool
}

// Init opens the broker that the metadata names. Metadata that is not allowed is an invalid.Error.
func (s pubsubService) Init(ctx context.Context, req *proto.PubSubInitRequest) (*proto.PubSubInitResponse, error) {
	c, properties := callOf(ctx), req.GetMetadata().GetProperties()
	if err := checkInitMetadata(properties); err != nil {
		return nil, err
	}
	p, err := s.server.openPubSub(ctx, c, properties)
	if err != nil {
		return nil, err
	}
	c.conn.session.Initialized(sidecars.PubSub, c.component, properties)
	c.conn.pubsub.Store(p)
	return &proto.PubSubInitResponse{}, nil
}

func (s *Server) openPubSub(ctx context.Context, c *call, properties map[string]string) (*pubSub, error) {
	config, err := parsePubSubConfig(properties)
	if err != nil {
		return nil, fmt.Errorf("initialize pub/sub: %w", err)
	}
	place, err := config.Publisher.place()
	if err != nil {
		return nil, fmt.Errorf("initialize pub/sub: %w", err)
	}
	broker, err := s.opts.Backend.BrokerAt(ctx, place)
	if err != nil {
		return nil, fmt.Errorf("initialize pub/sub: %w", err)
	}
	log := s.logOf(c)
	var ofOtherEngine []Field
	if place.NATS == nil {
		ofOtherEngine = fieldsOf(natsFields)
	}
	warnUnused(log, properties, PubSubMetadata(), ofOtherEngine)
	return &pubSub{
		broker: broker, config: config, place: place, clock: s.opts.Clock, log: log,
		metrics:       s.opts.Metrics.Publisher(place.Label(), place.Bucket),
		subscriptions: make(map[pubsub.Subscription]pubsub.SubscribeOptions),
	}, nil
}

// Features lists what the pub/sub can do, which does not depend on its Init.
func (pubsubService) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{Features: pubsubFeatures}, nil
}

// Ping returns an error unless the broker's database can be had.
func (s pubsubService) Ping(ctx context.Context, _ *proto.PingRequest) (*proto.PingResponse, error) {
	if _, err := s.server.opts.Backend.BrokerAt(ctx, callOf(ctx).pubsub.place); err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return &proto.PingResponse{}, nil
}

// Publish succeeds when the event is on disk, now or since it was published before.
func (pubsubService) Publish(ctx context.Context, req *proto.PublishRequest) (*proto.PublishResponse, error) {
	p := callOf(ctx).pubsub
	m, err := p.message(req.GetTopic(), req.GetData(), req.GetContentType(), req.GetMetadata())
	if err != nil {
		return nil, err
	}
	return &proto.PublishResponse{}, p.broker.Publish(ctx, req.GetTopic(), []pubsub.Message{m}, p.config.Publisher.Publish)[0]
}

// BulkPublish stores the entries in one commit, or none of them if one is refused: the error joins what was wrong. The
// runtime takes any answer for success, also one with failed entries in it, of which it does not tell the app. What the
// request's metadata says holds for entries that do not say otherwise, except for an event id, which can be that of one
// event only.
func (pubsubService) BulkPublish(ctx context.Context, req *proto.BulkPublishRequest) (*proto.BulkPublishResponse, error) {
	p := callOf(ctx).pubsub
	entries := req.GetEntries()
	if id := property(req.GetMetadata(), keyEventID); id != "" && len(entries) > 1 {
		return nil, invalid.New(keyEventID, id, "in the metadata of an entry, not of a whole bulk publish")
	}
	failed := make([]error, len(entries))
	messages := make([]pubsub.Message, len(entries))
	for i, entry := range entries {
		metadata := entryMetadata(entry, req.GetMetadata())
		messages[i], failed[i] = p.message(req.GetTopic(), entry.GetEvent(), entry.GetContentType(), metadata)
	}
	if len(messages) > 0 && errors.Join(failed...) == nil {
		opts := p.config.Publisher.Publish
		// Since the whole call fails, all of it is sent again: what is stored now would be stored twice.
		opts.AllOrNothing = true
		for i, err := range p.broker.Publish(ctx, req.GetTopic(), messages, opts) {
			if !errors.Is(err, pubsub.ErrOthersRefused) {
				failed[i] = err
			}
		}
	}
	return &proto.BulkPublishResponse{}, bulkError(entries, failed)
}

// maxEntryErrors is how many entries the error of a bulk publish tells of.
const maxEntryErrors = 3

// bulkError says what was wrong with a bulk publish. The runtime (1.18.2) repeats the text for each entry, in a header of its
// answer as well, so it stays short: what is wrong with all entries is said once, and not every entry is told of.
func bulkError(entries []*proto.BulkMessageEntry, failed []error) error {
	var told []error
	more, shared := 0, len(entries) > 1
	for i, err := range failed {
		shared = shared && err != nil && err.Error() == failed[0].Error()
		switch {
		case err == nil:
		case len(told) < maxEntryErrors:
			told = append(told, fmt.Errorf("entry %q: %w", entries[i].GetEntryId(), err))
		default:
			more++
		}
	}
	switch {
	case len(told) > 0 && shared:
		return failed[0]
	case more > 0:
		told = append(told, fmt.Errorf("and %d more", more))
	}
	return errors.Join(told...)
}

// entryMetadata is what an entry says, and what all say where it does not.
func entryMetadata(entry *proto.BulkMessageEntry, all map[string]string) map[string]string {
	own := entry.GetMetadata()
	if len(all) == 0 {
		return own
	}
	metadata := make(map[string]string, len(all)+len(own))
	for k, v := range all {
		if property(own, k) == "" {
			metadata[k] = v
		}
	}
	maps.Copy(metadata, own)
	return metadata
}

// message reads what a publish says about its event.
func (p *pubSub) message(topic string, data []byte, contentType string, metadata map[string]string) (pubsub.Message, error) {
	p.metrics.Event(len(data))
	m := pubsub.Message{Data: data, ContentType: contentType, Metadata: metadata}
	if err := ReadMetadata(&m, p.clock.Now()); err != nil {
		return pubsub.Message{}, err
	}
	return m, Deliverable(topic, &m)
}

// ReadMetadata sets what the metadata of a publish says about its event: its id, key, time to live and when it is due.
func ReadMetadata(m *pubsub.Message, now time.Time) (err error) {
	metadata := m.Metadata
	m.EventID, m.PartitionKey = property(metadata, keyEventID), property(metadata, keyPartitionKey)
	if m.TTL, err = ttlInSeconds(metadata, 1); err != nil {
		return err
	}
	after, at := property(metadata, keyDeliverAfter), property(metadata, keyDeliverAt)
	switch {
	case after != "" && at != "":
		return invalid.New(keyDeliverAt, at, "one of "+keyDeliverAfter+" and "+keyDeliverAt)
	case after != "":
		wait, ok := kindWait.parse(after)
		if !ok {
			return invalid.New(keyDeliverAfter, after, kindWait.allowed)
		}
		m.DeliverAt = now.Add(wait)
	case at != "":
		if m.DeliverAt, err = time.Parse(time.RFC3339, at); err != nil {
			return invalid.New(keyDeliverAt, at, "a time in RFC 3339, such as 2026-01-31T12:00:00Z")
		}
	}
	if m.TTL > 0 && m.DeliverAt.Sub(now) >= m.TTL {
		return invalid.New(keyTTLInSeconds, property(metadata, keyTTLInSeconds), "longer than the event is held back: it counts from the publish on")
	}
	return nil
}

// Deliverable refuses a message that no stream could carry.
func Deliverable(topic string, m *pubsub.Message) error {
	return deliverable(&proto.PullMessagesResponse{Data: m.Data, TopicName: topic, Metadata: m.Metadata, ContentType: m.ContentType}, MaxEventSize)
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

// subscribe begins the subscription of an instance of an app, with a subscription's metadata, which may change that of the
// component: its consumer group is returned. The caller must close the subscription, and then unsubscribe.
func (p *pubSub) subscribe(ctx context.Context, instance, topic string, metadata map[string]string) (_ pubsub.Subscription, group string, _ error) {
	overrides, err := parseProperties(metadata)
	if err != nil {
		return nil, "", fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	opts := p.config.Consumer
	opts.Topic, opts.Instance = topic, instance
	if err := override(&opts, consumerFields, overrides); err != nil {
		return nil, "", fmt.Errorf("subscribe to topic %q: %w", topic, err)
	}
	warnUnused(p.log.With("topic", topic), metadata, SubscriptionMetadata(), nil)
	s, err := p.broker.Subscribe(ctx, opts)
	if err != nil {
		return nil, "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnOverlap(&opts)
	p.subscriptions[s] = opts
	if p.paused {
		s.Pause()
	}
	return s, opts.Group, nil
}

// warnOverlap says when a topic may match two subscriptions of one app that name it differently: they share its events, and
// an app that has a handler for each may mean something else. It is called with p.mu held.
func (p *pubSub) warnOverlap(opts *pubsub.SubscribeOptions) {
	for _, other := range p.subscriptions {
		overlap := pubsub.Matches(other.Topic, opts.Topic) || pubsub.Matches(opts.Topic, other.Topic)
		if overlap && other.Topic != opts.Topic && other.Group == opts.Group {
			p.log.Warn("two subscriptions of one consumer group match the same topics: each event goes to one of them; a consumerID in a subscription's metadata makes it a group of its own",
				"group", opts.Group, "topic", opts.Topic, "other", other.Topic)
			return
		}
	}
}

func (p *pubSub) unsubscribe(s pubsub.Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.subscriptions, s)
}

// Pause stops new deliveries to the connection's subscriptions, present and future; what is in flight can still be handled.
func (pubsubService) Pause(ctx context.Context, _ *proto.PauseRequest) (*proto.PauseResponse, error) {
	callOf(ctx).pubsub.setPaused(true)
	return &proto.PauseResponse{}, nil
}

// Resume undoes Pause.
func (pubsubService) Resume(ctx context.Context, _ *proto.ResumeRequest) (*proto.ResumeResponse, error) {
	callOf(ctx).pubsub.setPaused(false)
	return &proto.ResumeResponse{}, nil
}

func (p *pubSub) setPaused(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	for sub := range p.subscriptions {
		if paused {
			sub.Pause()
		} else {
			sub.Resume()
		}
	}
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
