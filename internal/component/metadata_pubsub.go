package component

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Keys of a publish request's metadata.
const (
	keyEventID      = "eventID"
	keyDeliverAfter = "deliverAfter"
	keyDeliverAt    = "deliverAt"
	keyPartitionKey = "partitionKey"
)

// Keys that are added to each delivery's metadata; a sidecar hands them to the app as HTTP headers.
const (
	keyDeliveryCount = "deliveryCount"
	keySequence      = "sequence"
	keyPublishTime   = "publishTime"
)

const (
	// maxMaxAckPending bounds what one stream can be asked to hold in memory.
	maxMaxAckPending = 10_000
	// maxBackOffSteps bounds the list of waits.
	maxBackOffSteps = 100
)

// publisherConfig is what matters to a publish.
type publisherConfig struct {
	Database, Bucket string
	Publish          pubsub.PublishOptions
	Engine           string
	Servers          servers.NATS
}

// pubsubConfig is one component's metadata. The consumer part has no topic.
type pubsubConfig struct {
	Publisher publisherConfig
	Consumer  pubsub.SubscribeOptions
}

// PubSubMetadata lists the metadata keys of the pub/sub. Those of SubscriptionMetadata are among them.
func PubSubMetadata() []Field {
	return slices.Concat(fieldsOf(publisherFields), SubscriptionMetadata(), fieldsOf(eventsEngine), fieldsOf(natsFields))
}

// SubscriptionMetadata lists the keys that may also stand in a subscription's metadata, and then hold for that
// subscription.
func SubscriptionMetadata() []Field { return fieldsOf(consumerFields) }

var publisherFields = []field[publisherConfig]{
	newField("database", servers.DefaultDatabase, kindName, func(c *publisherConfig) *string { return &c.Database },
		"the file `<data-dir>/<database>.db`"),
	newField("bucket", servers.DefaultPubSubBucket, kindName, func(c *publisherConfig) *string { return &c.Bucket },
		"the bucket in that file: components with the same database and bucket share their data"),
	newField("dedupBy", pubsub.DedupBy{}.String(), kind[pubsub.DedupBy]{dedupByAllowed(), func(value string) (pubsub.DedupBy, bool) {
		by, err := pubsub.ParseDedupBy(value)
		return by, err == nil
	}}, func(c *publisherConfig) *pubsub.DedupBy { return &c.Publish.DedupBy },
		"what makes two events the same one; [more](#what-counts-as-a-duplicate)"),
	newField("dedupWindow", "10m", kindWait, func(c *publisherConfig) *time.Duration { return &c.Publish.DedupWindow },
		"how long an event's id is remembered; `0` turns deduplication off"),
	newField("maxAge", "168h", kindWait, func(c *publisherConfig) *time.Duration { return &c.Publish.Limits.MaxAge },
		"how old an event may get before it leaves the topic; `0`: no limit; [more](#what-ends-an-event)"),
	newField("maxBytes", "", kind[int64]{"a number of bytes of 0 or more, such as 500000000, 500M or 2Gi", parseBytes},
		func(c *publisherConfig) *int64 { return &c.Publish.Limits.MaxBytes },
		"a topic whose events take more than this refuses publishes; none or `0`: no limit; [more](#what-ends-an-event)"),
}

var consumerFields = []field[pubsub.SubscribeOptions]{
	newField("consumerID", "", kindText, func(o *pubsub.SubscribeOptions) *string { return &o.Group },
		"the consumer group; Dapr sets it to the app id where it is missing"),
	newField("maxDeliver", "10", kind[int]{"a whole number of 0 or more", wholeNumbers(0, math.MaxInt32)},
		func(o *pubsub.SubscribeOptions) *int { return &o.MaxDeliver },
		"deliveries of an event before it goes to the dead letters; `0`: no limit"),
	newField("backOff", "1s,5s,30s,2m", kind[pubsub.BackOff]{
		fmt.Sprintf("1 to %d durations of 0 or more, up to %d seconds each, separated by commas, such as 1s,2m", maxBackOffSteps, pubsub.MaxWait/time.Second),
		parseBackOff,
	}, func(o *pubsub.SubscribeOptions) *pubsub.BackOff { return &o.BackOff },
		"the wait before each redelivery; the last one repeats; up to a tenth is added at random"),
	newField("ackWait", "1m", kindWait, func(o *pubsub.SubscribeOptions) *time.Duration { return &o.AckWait },
		"how long the app may take for one event, from when it is that event's turn; `0`: no limit"),
	newField("maxAckPending", "64", kind[int]{fmt.Sprintf("a whole number from 1 to %d", maxMaxAckPending), wholeNumbers(1, maxMaxAckPending)},
		func(o *pubsub.SubscribeOptions) *int { return &o.MaxAckPending },
		"events in flight per stream"),
	newField("ordered", "false", kindFlag, func(o *pubsub.SubscribeOptions) *bool { return &o.Ordered },
		"an event is not overtaken by later ones, even while it is being retried"),
	newField("deliverPolicy", string(pubsub.DeliverAll), kindPolicy, func(o *pubsub.SubscribeOptions) *pubsub.DeliverPolicy { return &o.DeliverPolicy },
		"a new group starts with what is still kept (`all`) or with what comes next (`new`)"),
	newField("deadLetterExpired", "false", kindFlag, func(o *pubsub.SubscribeOptions) *bool { return &o.DeadLetterExpired },
		"whether an event whose `ttlInSeconds` ended unhandled becomes a dead letter instead of being dropped"),
}

var policies = oneOf(pubsub.DeliverAll, pubsub.DeliverNew)

// kindPolicy takes policies whatever their case.
var kindPolicy = kind[pubsub.DeliverPolicy]{policies.allowed, func(value string) (pubsub.DeliverPolicy, bool) {
	return policies.parse(strings.ToLower(value))
}}

// dedupByAllowed asks the one who knows.
func dedupByAllowed() string {
	_, err := pubsub.ParseDedupBy("")
	var refused *invalid.Error
	errors.As(err, &refused)
	return refused.Allowed
}

func parsePubSubConfig(given map[string]string) (pubsubConfig, error) {
	p, err := parseProperties(given)
	if err != nil {
		return pubsubConfig{}, err
	}
	publisher := slices.Concat(publisherFields, eventsEngine, natsFields)
	c := pubsubConfig{Publisher: defaults(publisher), Consumer: defaults(consumerFields)}
	return c, errors.Join(override(&c.Publisher, publisher, p), override(&c.Consumer, consumerFields, p))
}

// parseBytes takes Kubernetes' notation, as Dapr does.
func parseBytes(value string) (int64, bool) {
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return 0, false
	}
	n, ok := q.AsInt64()
	return n, ok && n >= 0
}

func parseBackOff(value string) (pubsub.BackOff, bool) {
	var waits pubsub.BackOff
	for step := range strings.SplitSeq(value, ",") {
		wait, ok := kindWait.parse(strings.TrimSpace(step))
		if !ok || len(waits) == maxBackOffSteps {
			return nil, false
		}
		waits = append(waits, wait)
	}
	return waits, true
}

// PubSubPlace returns where a pub/sub with that metadata keeps its data.
func PubSubPlace(properties map[string]string) (servers.Place, error) {
	c, err := parsePubSubConfig(properties)
	if err != nil {
		return servers.Place{}, err
	}
	return c.Publisher.place()
}
