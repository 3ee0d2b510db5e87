package admin

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// TopicsRequest selects topics.
type TopicsRequest struct {
	// Bucket default, where both fields are empty: all buckets.
	Bucket
}

// Topics is what a bucket holds, or all of them.
type Topics struct {
	Topics []TopicStats `json:"topics"`
	// Missing says which buckets are left out, and why; empty: none.
	Missing string `json:"missing,omitempty"`
}

// TopicStats counts what a topic holds, and says where it is.
type TopicStats struct {
	Bucket
	pubsub.TopicStats
}

// GroupRequest names a consumer group of a topic.
type GroupRequest struct {
	Bucket
	Topic string `json:"topic"`
	Group string `json:"group"`
}

// Topics counts what topics hold.
func (s *Service) Topics(ctx context.Context, request TopicsRequest) (Topics, error) {
	answer := Topics{Topics: []TopicStats{}}
	var counted []databases.OpenBroker
	if bucket := request.Bucket; bucket == (Bucket{}) {
		var err error
		counted, err = s.opts.Databases.Brokers(ctx)
		answer.Missing = text(err)
	} else {
		bucket = bucket.WithDefaults()
		broker, err := s.broker(ctx, bucket)
		if err != nil {
			return answer, err
		}
		counted = []databases.OpenBroker{{Database: bucket.Database, Bucket: bucket.Name, Broker: broker}}
	}
	for _, b := range counted {
		stats, err := b.Broker.Stats(ctx)
		if err != nil {
			return answer, err
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

// RemoveGroup ends a group that left for good.
func (s *Service) RemoveGroup(ctx context.Context, request GroupRequest) error {
	request.Bucket = request.WithDefaults()
	broker, err := s.broker(ctx, request.Bucket)
	if err != nil {
		return err
	}
	if err := broker.RemoveGroup(ctx, request.Topic, request.Group); err != nil {
		return err
	}
	s.changed(ctx, "a consumer group was removed", "database", request.Database, "bucket", request.Name, "topic", request.Topic, "group", request.Group)
	return nil
}
