package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// TopicsRequest selects topics.
type TopicsRequest struct {
	// Bucket default, where both fields are empty: all buckets.
	Bucket
	// Text selects those whose name holds it, case-insensitively.
	Text string `json:"text,omitempty"`
	// After is Topics.Next of the page before.
	After string `json:"after,omitempty"`
	// Limit of a page. Default: DefaultPageSize.
	Limit int `json:"limit,omitempty"`
}

// Topics is a page of what a bucket holds, or all of them.
type Topics struct {
	Topics []TopicStats `json:"topics"`
	// Next is what to continue after; empty: there are no more.
	Next string `json:"next,omitempty"`
	// Missing says which buckets are left out, and why; empty: none.
	Missing string `json:"missing,omitempty"`
}

// TopicStats says what a topic holds, and where it is. InFlight, Retrying, Dead, Acknowledged are those of all its groups
// together.
type TopicStats struct {
	Bucket
	pubsub.TopicStats
	InFlight     uint64 `json:"inFlight"`
	Retrying     uint64 `json:"retrying"`
	Dead         uint64 `json:"dead"`
	Acknowledged uint64 `json:"acknowledged"`
	// RateIn and RateOut are how many events were published, and delivered to all groups, per second in the last minute.
	RateIn  float64 `json:"rateIn"`
	RateOut float64 `json:"rateOut"`
}

func newTopicStats(bucket Bucket, t pubsub.TopicStats) TopicStats {
	if t.Groups == nil {
		t.Groups = []pubsub.GroupStats{}
	}
	out := TopicStats{Bucket: bucket, TopicStats: t}
	for i := range t.Groups {
		g := &t.Groups[i]
		out.InFlight += g.InFlight
		out.Retrying += g.Retrying
		out.Dead += g.Dead
		out.Acknowledged += g.Acknowledged
	}
	return out
}

// TopicRequest names a topic.
type TopicRequest struct {
	Bucket
	Topic string `json:"topic"`
}

// GroupRequest names a consumer group of a topic.
type GroupRequest struct {
	Bucket
	Topic string `json:"topic"`
	Group string `json:"group"`
}

// TopicDetail is a topic with who consumes it.
type TopicDetail struct {
	TopicStats
	Consumers []Consumer `json:"consumers"`
}

// Consumer is an app instance's stream and its configuration as in force.
type Consumer struct {
	Group string `json:"group"`
	// Topic is what it subscribed to, which may hold wildcards.
	Topic    string `json:"topic"`
	Instance string `json:"instance,omitempty"`
	InFlight int    `json:"inFlight"`
	// OldestSince is since when the app has the oldest event in flight.
	OldestSince time.Time `json:"oldestSince,omitzero"`
	Paused      bool      `json:"paused,omitempty"`
	// Silent says that it let an ackWait run out and has not answered since.
	Silent bool           `json:"silent,omitempty"`
	Config ConsumerConfig `json:"config"`
}

// ConsumerConfig has the keys of the metadata; durations are Go's.
type ConsumerConfig struct {
	MaxDeliver        int                  `json:"maxDeliver"`
	BackOff           []string             `json:"backOff"`
	AckWait           string               `json:"ackWait"`
	MaxAckPending     int                  `json:"maxAckPending"`
	Ordered           bool                 `json:"ordered"`
	DeliverPolicy     pubsub.DeliverPolicy `json:"deliverPolicy"`
	DeadLetterExpired bool                 `json:"deadLetterExpired"`
}

// topicCursor is where a page of topics ends.
type topicCursor struct{ Database, Bucket, Topic string }

// topics returns a page of topics, by database, bucket and name.
func (s *Service) topics(ctx context.Context, request TopicsRequest) (Topics, error) {
	answer := Topics{Topics: []TopicStats{}}
	limit, err := pageSize(request.Limit)
	if err != nil {
		return answer, err
	}
	var after topicCursor
	if err := parseCursor(request.After, &after); err != nil {
		return answer, err
	}
	brokers, err := s.brokers(ctx, request.Bucket, &answer.Missing)
	if err != nil {
		return answer, err
	}
	for _, b := range brokers {
		from := ""
		switch place := cmp.Or(cmp.Compare(b.Database, after.Database), cmp.Compare(b.Bucket, after.Bucket)); {
		case place < 0:
			continue
		case place == 0:
			from = after.Topic
		}
		stats, err := b.Broker.Stats(ctx, from, request.Text, limit+1-len(answer.Topics))
		if err != nil {
			return answer, err
		}
		for _, t := range stats {
			if n := len(answer.Topics); n == limit {
				last := answer.Topics[n-1]
				answer.Next = cursor(topicCursor{last.Database, last.Name, last.Topic})
				return answer, nil
			}
			stats := newTopicStats(Bucket{b.Database, b.Bucket}, t)
			s.addRates(&stats)
			answer.Topics = append(answer.Topics, stats)
		}
	}
	return answer, nil
}

// brokers returns that of a bucket, or those of all buckets if it is the zero value; missing says which are not there.
func (s *Service) brokers(ctx context.Context, bucket Bucket, missing *string) ([]databases.OpenBroker, error) {
	if bucket == (Bucket{}) {
		all, err := s.opts.Databases.Brokers(ctx)
		*missing = text(err)
		return all, nil
	}
	bucket = bucket.WithDefaults()
	broker, err := s.broker(ctx, bucket)
	return []databases.OpenBroker{{Database: bucket.Database, Bucket: bucket.Name, Broker: broker}}, err
}

// topic returns one topic and who consumes it.
func (s *Service) topic(ctx context.Context, broker pubsub.Service, request TopicRequest) (TopicDetail, error) {
	stats, err := broker.TopicStats(ctx, request.Topic)
	if err != nil {
		return TopicDetail{}, err
	}
	answer := TopicDetail{TopicStats: newTopicStats(request.Bucket, stats), Consumers: []Consumer{}}
	s.addRates(&answer.TopicStats)
	for _, c := range broker.Consumers(request.Topic) {
		out := Consumer{
			Group: c.Group, Topic: c.Topic, Instance: c.Instance, InFlight: c.InFlight, OldestSince: c.OldestSince, Paused: c.Paused, Silent: c.Silent,
			Config: ConsumerConfig{
				MaxDeliver: c.MaxDeliver, BackOff: []string{}, AckWait: c.AckWait.String(), MaxAckPending: c.MaxAckPending,
				Ordered: c.Ordered, DeliverPolicy: c.DeliverPolicy, DeadLetterExpired: c.DeadLetterExpired,
			},
		}
		for _, wait := range c.BackOff {
			out.Config.BackOff = append(out.Config.BackOff, wait.String())
		}
		answer.Consumers = append(answer.Consumers, out)
	}
	return answer, nil
}

// removeTopic forgets a topic that nobody consumes: its events, groups and dead letters.
func (s *Service) removeTopic(ctx context.Context, broker pubsub.Service, r TopicRequest) (Empty, error) {
	return s.done(ctx, broker.RemoveTopic(ctx, r.Topic), "a topic was removed", r.Bucket, "topic", r.Topic)
}

// removeGroup ends a group that left for good.
func (s *Service) removeGroup(ctx context.Context, broker pubsub.Service, r GroupRequest) (Empty, error) {
	return s.done(ctx, broker.RemoveGroup(ctx, r.Topic, r.Group), "a consumer group was removed", r.Bucket, "topic", r.Topic, "group", r.Group)
}

// PublishRequest is an event to publish.
type PublishRequest struct {
	Bucket
	Topic string `json:"topic"`
	Content
	// ContentType is the data's. Default: application/json for data that is JSON, else text/plain, or application/octet-stream.
	ContentType string `json:"contentType,omitempty"`
	// Raw publishes the data as it is. Default: it becomes the data of a CloudEvent, as Dapr makes of it.
	Raw bool `json:"raw,omitempty"`
	// ID names the event: one that was published with it lately is not stored again. Default: the eventID of Metadata, else a new
	// one, or with Raw that of the CloudEvent that the data is, if it is one.
	ID string `json:"id,omitempty"`
	// Source and Type are the CloudEvent's. Default: dapr-bolt, com.dapr.event.sent.
	Source string `json:"source,omitempty"`
	Type   string `json:"type,omitempty"`
	// Metadata travels with the event, and says what it does in a publish through a sidecar: when the event is due, for example.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// PublishResult says what the event is known by; empty: it has no id.
type PublishResult struct {
	ID string `json:"id"`
}

const (
	// publishWindow is how long the id of an event that was published here is remembered.
	publishWindow = 10 * time.Minute
	// maxPublish bounds the payload of an event that is published here, in bytes.
	maxPublish      = statestore.MaxValueSize
	cloudEventsType = "application/cloudevents+json"
)

// publish stores an event in a topic, new if need be, and keeps the limits that the topic's publisher has set.
func (s *Service) publish(ctx context.Context, broker pubsub.Service, request PublishRequest) (PublishResult, error) {
	message, err := request.message(s.opts.Clock.Now())
	if err != nil {
		return PublishResult{}, err
	}
	byID, err := pubsub.ParseDedupBy("id")
	if err != nil {
		return PublishResult{}, err
	}
	opts := pubsub.PublishOptions{DedupBy: byID}
	id := message.ID()
	if id != "" {
		opts.DedupWindow = publishWindow
	}
	if stats, err := broker.TopicStats(ctx, request.Topic); err == nil {
		opts.Limits = pubsub.TopicLimits{MaxAge: stats.MaxAge, MaxBytes: stats.MaxBytes}
	}
	if err := broker.Publish(ctx, request.Topic, []pubsub.Message{message}, opts)[0]; err != nil {
		return PublishResult{}, err
	}
	s.changed(ctx, "an event was published", request.Bucket, "topic", request.Topic, "id", id)
	return PublishResult{ID: id}, nil
}

func (r *PublishRequest) message(now time.Time) (pubsub.Message, error) {
	data, err := r.Payload()
	if err != nil {
		return pubsub.Message{}, err
	}
	if len(data) > maxPublish {
		return pubsub.Message{}, Refuse(http.StatusRequestEntityTooLarge, "data of %d bytes: allowed: at most %d", len(data), maxPublish)
	}
	encoding := NewContent(data).DataEncoding
	contentType := cmp.Or(r.ContentType, map[DataEncoding]string{
		DataJSON: "application/json", DataText: "text/plain", DataBase64: "application/octet-stream",
	}[encoding])
	m := pubsub.Message{Data: data, ContentType: contentType, Metadata: r.Metadata}
	if err := component.ReadMetadata(&m, now); err != nil {
		return pubsub.Message{}, err
	}
	m.EventID = cmp.Or(r.ID, m.EventID)
	if r.Raw {
		return m, component.Deliverable(r.Topic, &m)
	}
	m.EventID = cmp.Or(m.EventID, uuid.NewString())
	event := map[string]any{
		"specversion": "1.0", "id": m.EventID, "source": cmp.Or(r.Source, "dapr-bolt"), "type": cmp.Or(r.Type, "com.dapr.event.sent"),
		"topic": r.Topic, "datacontenttype": contentType,
	}
	switch {
	case encoding == DataBase64:
		event["data_base64"] = data
	case encoding == DataJSON && strings.Contains(contentType, "json"):
		event["data"] = json.RawMessage(data)
	case encoding == DataJSON || encoding == DataText:
		event["data"] = string(data)
	}
	m.ContentType = cloudEventsType
	if m.Data, err = json.Marshal(event); err != nil {
		return m, fmt.Errorf("make a CloudEvent: %w", err)
	}
	return m, component.Deliverable(r.Topic, &m)
}

// WatchedEvent is an event that was published just now.
type WatchedEvent struct {
	Topic string `json:"topic"`
	Event
	// Missed counts events before this one that came too fast to be shown.
	Missed uint64 `json:"missed,omitempty"`
}
