package natsbroker

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Partitions is how many partitions the partition keys of a topic share.
const Partitions = 8

// The partition of events without a key, and that of all, which ordered groups consume.
const (
	noPartition  = "none"
	allPartition = "all"
)

// layout names what a bucket has on the servers. T stands for the hash of a topic, G for that of a group and its topic;
// what they are called is in the records.
//
//	e.T.partition     events
//	r.G.partition     redriven events of a group
//	s.T.id            delayed events: schedules, whose event goes to e.T.partition
//	d.hash            ids of events that were seen, until their window ends
//	t.T               topicRecord
//	g.G               groupRecord, where T may be a pattern's hash
//	h.G.sequence      historyRecord: what failed deliveries a group had of the event with that sequence
//	x.G.sequence      dead letters of that event
//	i                 what the bucket is an unfinished copy of
//	l                 whose turn it is to clean up
//
// On the subject asking, which the stream does not store, processes ask each other who consumes what.
type layout struct{ stream, root, asking string }

func newLayout(prefix, bucket string) layout {
	asking := prefix + "." + bucket
	return layout{stream: prefix + "=" + bucket, root: asking + ".", asking: asking}
}

func (l layout) subject(parts ...string) string { return l.root + strings.Join(parts, ".") }

// parts are those of a subject without the root.
func (l layout) parts(subject string) []string {
	return strings.Split(strings.TrimPrefix(subject, l.root), ".")
}

// hash of parts that hold no 0x00: 26 letters and digits, whatever the parts.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
}

func groupHash(topic, group string) string { return hash(group, topic) }

func partitionOf(key string) string {
	if key == "" {
		return noPartition
	}
	f := fnv.New32a()
	_, _ = f.Write([]byte(key))
	return strconv.Itoa(int(f.Sum32() % Partitions))
}

// topicRecord is what is known of a topic.
type topicRecord struct {
	Topic  string        `json:"topic"`
	MaxAge time.Duration `json:"maxAge,omitempty"`
	// Keyed says that events with a partition key were published.
	Keyed bool `json:"keyed,omitempty"`
	// Removed: the topic was removed, and not published or subscribed to since.
	Removed bool `json:"removed,omitempty"`
}

// groupRecord says that a group consumes a topic, or those that a pattern matches.
type groupRecord struct {
	Topic   string `json:"topic"`
	Group   string `json:"group"`
	Ordered bool   `json:"ordered,omitempty"`
	// Undecided: the group's first subscription says whether it is ordered.
	Undecided bool `json:"undecided,omitempty"`
	// After is the sequence behind which the group begins.
	After uint64 `json:"after,omitempty"`
	// Removed: the group was removed.
	Removed bool `json:"removed,omitempty"`
}

// historyRecord is what a group knows of an event that it has not handled yet.
type historyRecord struct {
	pubsub.History
	// Due is when the next delivery is.
	Due time.Time
	// Reply is where the server hears of a delivery before that, whoever says it.
	Reply string `json:",omitempty"`
	// Ended: the event is a dead letter, and only its acknowledgement is missing.
	Ended bool `json:",omitempty"`
}

// deathRecord is what a dead letter has beside its event.
type deathRecord struct {
	Group    string
	Sequence uint64
	History  pubsub.History
	Reason   pubsub.Reason
	Time     time.Time
}

// Headers of our messages, in JSON. Where they are too large, they stand in the data; see packRecords.
const (
	headerEvent = "Bolt-Event"
	headerDeath = "Bolt-Death"
	// headerRedriven counts how often the event was redriven.
	headerRedriven = "Bolt-Redriven"
	// headerHistory is the historyRecord of an event that was copied from elsewhere, as it was there.
	headerHistory = "Bolt-History"
)

// The server's headers.
const (
	headerExpected       = "Nats-Expected-Last-Subject-Sequence"
	headerRollup         = "Nats-Rollup"
	headerTTL            = "Nats-TTL"
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
)

// eventRecord is all of an event but its data, which is the message's.
type eventRecord struct {
	Topic        string            `json:"topic"`
	ID           string            `json:"id,omitempty"`
	ContentType  string            `json:"contentType,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	PublishTime  time.Time         `json:"publishTime"`
	DeliverAt    time.Time         `json:"deliverAt,omitzero"`
	Expires      time.Time         `json:"expires,omitzero"`
	PartitionKey string            `json:"partitionKey,omitempty"`
}

// eventMessage returns the message that holds an event.
func eventMessage(subject string, e *pubsub.Event) *nats.Msg {
	return &nats.Msg{Subject: subject, Data: e.Data, Header: nats.Header{headerEvent: {marshal(eventRecord{
		Topic: e.Topic, ID: e.ID, ContentType: e.ContentType, Metadata: e.Metadata, PublishTime: e.PublishTime,
		DeliverAt: e.DeliverAt, Expires: e.Expires, PartitionKey: e.PartitionKey,
	})}}}
}

// eventOf is the reverse. What cannot be read is an event that says so.
func eventOf(topic string, sequence uint64, header nats.Header, data []byte) pubsub.Event {
	var r eventRecord
	if err := json.Unmarshal([]byte(header.Get(headerEvent)), &r); err != nil {
		return pubsub.Event{Sequence: sequence, Topic: topic, Data: data, Unreadable: fmt.Sprintf("header %s: %v", headerEvent, err)}
	}
	return pubsub.Event{
		Sequence: sequence, Topic: r.Topic, ID: r.ID, Data: data, ContentType: r.ContentType, Metadata: r.Metadata,
		PublishTime: r.PublishTime, DeliverAt: r.DeliverAt, Expires: r.Expires, PartitionKey: r.PartitionKey,
	}
}

// marshal encodes one of the records above, none of which can fail.
func marshal(record any) string {
	b, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func sequenceText(n uint64) string { return strconv.FormatUint(n, 10) }

// ttlText rounds up: the server cuts off what is not a whole second.
func ttlText(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
}
