package component

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Events           natsConfig
}

// pubsubConfig is one component's metadata. The consumer part has no topic.
type pubsubConfig struct {
	Publisher publisherConfig
	Consumer  pubsub.SubscribeOptions
}

// PubSubMetadata lists the metadata keys of the pub/sub. Those of SubscriptionMetadata are among them.
func PubSubMetadata() []Field {
	return slices.Concat(fieldsOf(publisherFields), SubscriptionMetadata(), fieldsOf(natsFields))
}

// SubscriptionMetadata lists the keys that may also stand in a subscription's metadata, and then hold for that
// subscription.
func SubscriptionMetadata() []Field { return fieldsOf(consumerFields) }

var publisherFields = []field[publisherConfig]{
	{
		Field{"database", servers.DefaultDatabase, nameAllowed, "the file `<data-dir>/<database>.db`"},
		func(c *publisherConfig, v string) bool { c.Database = v; return true },
	},
	{
		Field{"bucket", servers.DefaultPubSubBucket, nameAllowed, "the bucket in that file: components with the same database and bucket share their data"},
		func(c *publisherConfig, v string) bool { c.Bucket = v; return true },
	},
	{
		Field{
			"dedupBy", pubsub.DedupBy{}.String(), dedupByAllowed(),
			"what makes two events the same one; [more](#what-counts-as-a-duplicate)",
		},
		func(c *publisherConfig, v string) bool {
			by, err := pubsub.ParseDedupBy(v)
			if err == nil {
				c.Publish.DedupBy = by
			}
			return err == nil
		},
	},
	{
		Field{"dedupWindow", "10m", waitAllowed, "how long an event's id is remembered; `0` turns deduplication off"},
		func(c *publisherConfig, v string) bool { return parseWait(&c.Publish.DedupWindow, v) },
	},
	{
		Field{"maxAge", "168h", waitAllowed, "how old an event may get before it leaves the topic; `0`: no limit; [more](#what-ends-an-event)"},
		func(c *publisherConfig, v string) bool { return parseWait(&c.Publish.Limits.MaxAge, v) },
	},
	{
		Field{"maxBytes", "", "a number of bytes of 0 or more, such as 500000000, 500M or 2Gi", "a topic whose events take more than this refuses publishes; none or `0`: no limit; [more](#what-ends-an-event)"},
		func(c *publisherConfig, v string) bool {
			n, ok := parseSize(v)
			if ok = ok && n >= 0; ok {
				c.Publish.Limits.MaxBytes = n
			}
			return ok
		},
	},
}

var consumerFields = []field[pubsub.SubscribeOptions]{
	{
		Field{"consumerID", "", "text", "the consumer group; Dapr sets it to the app id where it is missing"},
		func(o *pubsub.SubscribeOptions, v string) bool { o.Group = v; return true },
	},
	{
		Field{"maxDeliver", "10", "a whole number of 0 or more", "deliveries of an event before it goes to the dead letters; `0`: no limit"},
		func(o *pubsub.SubscribeOptions, v string) bool { return parseWhole(&o.MaxDeliver, v, 0, math.MaxInt32) },
	},
	{
		Field{
			"backOff", "1s,5s,30s,2m", fmt.Sprintf("1 to %d durations of 0 or more, up to %d seconds each, separated by commas, such as 1s,2m", maxBackOffSteps, pubsub.MaxWait/time.Second),
			"the wait before each redelivery; the last one repeats; jittered",
		},
		func(o *pubsub.SubscribeOptions, v string) bool {
			steps := strings.Split(v, ",")
			if len(steps) > maxBackOffSteps {
				return false
			}
			waits := make(pubsub.BackOff, len(steps))
			for i, step := range steps {
				if !parseWait(&waits[i], strings.TrimSpace(step)) {
					return false
				}
			}
			o.BackOff = waits
			return true
		},
	},
	{
		Field{"ackWait", "1m", waitAllowed, "how long the app may take for one event, from when it is that event's turn; `0`: no limit"},
		func(o *pubsub.SubscribeOptions, v string) bool { return parseWait(&o.AckWait, v) },
	},
	{
		Field{"maxAckPending", "64", fmt.Sprintf("a whole number from 1 to %d", maxMaxAckPending), "events in flight per stream"},
		func(o *pubsub.SubscribeOptions, v string) bool {
			return parseWhole(&o.MaxAckPending, v, 1, maxMaxAckPending)
		},
	},
	{
		Field{"ordered", "false", "true or false", "an event is not overtaken by later ones, even while it is being retried"},
		func(o *pubsub.SubscribeOptions, v string) bool { return parseFlag(&o.Ordered, v) },
	},
	{
		Field{
			"deliverPolicy", string(pubsub.DeliverAll), fmt.Sprintf("%s or %s", pubsub.DeliverAll, pubsub.DeliverNew),
			"a new group starts with what is still kept (`all`) or with what comes next (`new`)",
		},
		func(o *pubsub.SubscribeOptions, v string) bool {
			policy := pubsub.DeliverPolicy(strings.ToLower(v))
			ok := policy == pubsub.DeliverAll || policy == pubsub.DeliverNew
			if ok {
				o.DeliverPolicy = policy
			}
			return ok
		},
	},
	{
		Field{"deadLetterExpired", "false", "true or false", "whether an event whose `ttlInSeconds` ended unhandled becomes a dead letter instead of being dropped"},
		func(o *pubsub.SubscribeOptions, v string) bool { return parseFlag(&o.DeadLetterExpired, v) },
	},
}

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
	c := pubsubConfig{Publisher: defaults(publisherFields), Consumer: defaults(consumerFields)}
	c.Publisher.Events = defaults(natsFields)
	return c, errors.Join(override(&c.Publisher, publisherFields, p), override(&c.Consumer, consumerFields, p), override(&c.Publisher.Events, natsFields, p))
}

// waitAllowed says what parseWait takes.
var waitAllowed = fmt.Sprintf("a duration of 0 or more, up to %d seconds, such as 30s or 168h", pubsub.MaxWait/time.Second)

func parseWait(to *time.Duration, value string) bool {
	d, ok := parseDuration(value)
	if ok = ok && d >= 0 && d <= pubsub.MaxWait; ok {
		*to = d
	}
	return ok
}

func parseWhole(to *int, value string, least, most int) bool {
	n, err := strconv.Atoi(value)
	ok := err == nil && n >= least && n <= most
	if ok {
		*to = n
	}
	return ok
}

func parseFlag(to *bool, value string) bool {
	b, ok := parseBool(value)
	if ok {
		*to = b
	}
	return ok
}
