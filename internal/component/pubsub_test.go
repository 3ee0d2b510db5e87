package component

import (
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func (h *house) broker() pubsub.Service {
	h.t.Helper()
	b, err := h.manager.Broker(h.t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(h.t, err)
	return b
}

// Two sidecars may name their components alike.
func TestConnectionsOfOneNameAreInstancesOfTheirOwn(t *testing.T) {
	h := newHouse(t)
	a, b := h.bus("same", "consumerID", "a"), h.bus("same", "consumerID", "b")
	forA, forB := a.pull(t, "t"), b.pull(t, "t")
	require.NoError(t, a.publish("t", "1"))
	require.Equal(t, "1", string(forA.next().GetData()))
	require.Equal(t, "1", string(forB.next().GetData()))

	x, y := h.store("same", "bucket", "x"), h.store("same", "bucket", "y")
	require.NoError(t, x.set("k", "v"))
	require.Equal(t, "v", x.get(t, "k"))
	require.Empty(t, y.get(t, "k"))
}

func TestFeatures(t *testing.T) {
	c := newHouse(t).dial("a")
	r, err := c.pubsub.Features(c.ctx, &proto.FeaturesRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"BULK_PUBSUB", "MESSAGE_TTL", "SUBSCRIBE_WILDCARDS", "BULK_SUBSCRIBE_IMMEDIATE"}, r.GetFeatures())
	r, err = c.Features(c.ctx, &proto.FeaturesRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"}, r.GetFeatures())
}

func TestTheAppIsToldOfTheDelivery(t *testing.T) {
	published := time.Date(2026, 1, 31, 12, 0, 0, 7, time.UTC)
	h := newHouse(t, func(h *house) { h.clock = clockwork.NewFakeClockAt(published) })
	c := h.bus("a", "consumerID", "app", "backOff", "0")
	s := c.pull(t, "orders.*")
	require.NoError(t, c.publish("orders.eu", "data", "x", "y", "DeliveryCount", "99", "eventID", "E"))
	m := s.next()
	require.Equal(t, "orders.eu", m.GetTopicName(), "the event names its own topic")
	require.Equal(t, map[string]string{
		"x": "y", "eventID": "E", "deliveryCount": "1", "sequence": "1", "publishTime": "2026-01-31T12:00:00.000000007Z",
	}, m.GetMetadata())
	s.nack(m.GetId(), "the app's failure")
	m = s.next()
	require.Equal(t, "2", m.GetMetadata()["deliveryCount"])
	s.ack(m.GetId())
}

func TestTheAppsErrorTextIsKept(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t", "maxDeliver", "1")
	require.NoError(t, c.publish("t", "1"))
	s.nack(s.next().GetId(), "status code returned: 500")
	require.Eventually(t, func() bool {
		dead, _, err := h.broker().DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
		require.NoError(t, err)
		return len(dead) == 1 && dead[0].LastError() == "status code returned: 500"
	}, patience, time.Millisecond)
}

func TestSubscriptionMetadata(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	for key, value := range map[string]string{"maxDeliver": "-1", "backOff": "x", "ordered": "maybe"} {
		_, err := c.pull(t, "t", key, value).Recv()
		requireInvalid(t, err, fmt.Sprintf("invalid %s %q", key, value))
	}
	other := c.pull(t, "t", "consumerid", "other", "maxDelver", "1")
	require.NoError(t, c.publish("t", "1"))
	other.next()
	require.Contains(t, h.log.String(), "topic=t key=maxDelver nearest=maxDeliver")
	stats, err := h.broker().Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Equal(t, "other", stats[0].Groups[0].Group)

	_, err = h.bus("b").pull(t, "t").Recv()
	requireInvalid(t, err, "consumerID")
}

func TestPublishMetadata(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))
	p := &pubSub{clock: clock, metrics: metrics.New().Publisher("dapr", "pubsub")}
	read := func(md ...string) (pubsub.Message, error) {
		return p.message("t", []byte("d"), "text/plain", pairs(md))
	}

	m, err := read("EVENTID", "E", "ttlInSeconds", "91", "deliverAfter", "90", "partitionKey", "p")
	require.NoError(t, err)
	require.Equal(t, "E", m.EventID)
	require.Equal(t, 91*time.Second, m.TTL)
	require.Equal(t, clock.Now().Add(90*time.Second), m.DeliverAt)
	require.Equal(t, "p", m.PartitionKey)
	require.Equal(t, "text/plain", m.ContentType)
	require.Equal(t, "d", string(m.Data))
	require.Equal(t, "E", m.Metadata["EVENTID"])
	m, err = read("deliverAt", "2027-01-01T00:00:00+01:00")
	require.NoError(t, err)
	require.True(t, m.DeliverAt.Equal(time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC)))

	for _, bad := range [][]string{
		{"ttlInSeconds", "-5"}, {"ttlInSeconds", "0"}, {"ttlInSeconds", "x"}, {"ttlInSeconds", "99999999999"},
		{"deliverAfter", "soon"}, {"deliverAfter", "-1s"}, {"deliverAt", "tomorrow"}, {"deliverAt", "2026-01-31T12:00:00Z", "deliverAfter", "1s"},
		{"ttlInSeconds", "90", "deliverAfter", "90"}, {"ttlInSeconds", "90", "deliverAt", "2026-01-31T12:02:00Z"},
		{"x", "\xff"}, {"\xff", "x"},
	} {
		_, err := read(bad...)
		var value *invalid.Error
		require.ErrorAs(t, err, &value, "%q", bad)
	}
}

func TestBadPublishes(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	for _, test := range map[string]struct {
		topic, data, text string
		md                []string
	}{
		"empty topic":      {"", "x", "topic", nil},
		"wildcard":         {"a.*", "x", "topic", nil},
		"negative ttl":     {"t", "x", `invalid ttlInSeconds "-5"`, []string{"ttlInSeconds", "-5"}},
		"5 MiB":            {"t", strings.Repeat("x", 5<<20), fmt.Sprintf("at most %d are allowed", MaxEventSize), nil},
		"metadata too big": {"t", strings.Repeat("x", 2<<20), "the event is too large: it has 52", []string{"big", strings.Repeat("x", 3<<20)}},
	} {
		requireInvalid(t, c.publish(test.topic, test.data, test.md...), test.text)
	}
	require.NoError(t, c.publish("t", "good"))
	require.Equal(t, "good", string(s.next().GetData()), "nothing else was stored")
}

// The largest event that is taken arrives at a client with gRPC's default limit, with all that a delivery adds.
func TestTheLargestEventIsDelivered(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	size := MaxEventSize - len("\x0a....\x12\x01t")
	require.NoError(t, c.publish("t", strings.Repeat("x", size)))
	requireInvalid(t, c.publish("t", strings.Repeat("x", size+1)), fmt.Sprintf("it has %d bytes", MaxEventSize+1))
	require.Len(t, s.next().GetData(), size)
}

func TestDeliverySizeIsThatOnTheWire(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, m := range []*proto.PullMessagesResponse{
		{},
		{Data: []byte("d"), TopicName: "t", ContentType: "c", Id: "i", Metadata: map[string]string{"": "", "k": "v"}},
		{Data: []byte(long), TopicName: long, ContentType: long, Id: long, Metadata: map[string]string{long: long, "k": ""}},
	} {
		require.Equal(t, googleproto.Size(m), deliverySize(m))
	}
}

func TestBulkPublish(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	bulk := func(topic string, md map[string]string, entries ...*proto.BulkMessageEntry) (map[string]string, error) {
		r, err := c.pubsub.BulkPublish(c.ctx, &proto.BulkPublishRequest{Topic: topic, Entries: entries, Metadata: md})
		failed := make(map[string]string)
		for _, f := range r.GetFailedEntries() {
			failed[f.GetEntryId()] = f.GetError()
		}
		return failed, err
	}
	bad := &proto.BulkMessageEntry{EntryId: "bad", Event: []byte("b"), Metadata: map[string]string{"ttlInSeconds": "-5"}}
	good := &proto.BulkMessageEntry{EntryId: "good", Event: []byte("g"), Metadata: map[string]string{"eventID": "E"}}
	again := &proto.BulkMessageEntry{EntryId: "again", Event: []byte("g"), Metadata: map[string]string{"eventID": "E"}}
	other := &proto.BulkMessageEntry{EntryId: "other", Event: []byte("o"), Metadata: map[string]string{"x": "own"}}

	failed, err := bulk("t", map[string]string{"x": "all", "y": "all"}, good, again, other)
	require.NoError(t, err)
	require.Empty(t, failed)
	m := s.next()
	require.Equal(t, "g", string(m.GetData()))
	require.Equal(t, "all", m.GetMetadata()["x"])
	m = s.next()
	require.Equal(t, "o", string(m.GetData()), "a duplicate in one bulk is stored once")
	require.Equal(t, "own", m.GetMetadata()["x"])
	require.Equal(t, "all", m.GetMetadata()["y"])

	// The runtime tells the app of a call that failed, but not of an entry that did. Nothing was stored: everything can be
	// tried again.
	_, err = bulk("t", nil, other, bad)
	requireInvalid(t, err, `entry "bad": invalid ttlInSeconds "-5"`)
	require.NotContains(t, err.Error(), `"other"`)
	require.NoError(t, c.publish("t", "later"))
	require.Equal(t, "later", string(s.next().GetData()))
	_, err = bulk("t", nil, bad)
	requireInvalid(t, err, `invalid ttlInSeconds "-5"`)
	_, err = bulk("", nil, good, other)
	requireInvalid(t, err, "topic")
	// The runtime repeats the text for each entry: what is wrong with all is said once, and of many only the first are told of.
	_, err = bulk("", nil, good, other)
	require.Equal(t, 1, strings.Count(err.Error(), "invalid topic"), err)
	require.NotContains(t, err.Error(), "entry")
	bads := []*proto.BulkMessageEntry{good}
	for i := range 100 {
		bads = append(bads, &proto.BulkMessageEntry{EntryId: fmt.Sprint("bad-", i), Metadata: bad.Metadata})
	}
	_, err = bulk("t", nil, bads...)
	requireInvalid(t, err, `entry "bad-2": invalid ttlInSeconds "-5"`)
	require.ErrorContains(t, err, "and 97 more")
	require.Less(t, len(err.Error()), 500, err)
	// What only the broker can tell.
	full := h.bus("full", "bucket", "small", "maxBytes", "1k", "consumerID", "app")
	large := &proto.BulkMessageEntry{EntryId: "large", Event: make([]byte, 1000)}
	_, err = full.pubsub.BulkPublish(c.ctx, &proto.BulkPublishRequest{Topic: "t", Entries: []*proto.BulkMessageEntry{good, large}})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), fmt.Sprint(err))
	require.ErrorContains(t, err, `entry "large": the topic is full`)
	require.NotContains(t, err.Error(), `"good"`)
	later := full.pull(t, "t")
	require.NoError(t, full.publish("t", "later"))
	require.Equal(t, "later", string(later.next().GetData()))

	_, err = bulk("t", map[string]string{"eventID": "E"}, other, other)
	requireInvalid(t, err, "eventID")
	failed, err = bulk("t", nil)
	require.NoError(t, err)
	require.Empty(t, failed)
}

func TestPingReachesThePubSub(t *testing.T) {
	h := newHouse(t)
	c := h.dial("a")
	_, err := c.pubsub.Ping(c.ctx, &proto.PingRequest{})
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	c = h.bus("a")
	_, err = c.pubsub.Ping(c.ctx, &proto.PingRequest{})
	require.NoError(t, err)
	require.NoError(t, h.manager.Close(t.Context()))
	_, err = c.pubsub.Ping(c.ctx, &proto.PingRequest{})
	require.ErrorContains(t, err, "closed")
}

// They are for one connection's subscriptions, with what they have in flight.
func TestPauseAndResume(t *testing.T) {
	h := newHouse(t)
	a, b := h.bus("same", "consumerID", "a"), h.bus("same", "consumerID", "b")
	forA, forB := a.pull(t, "t"), b.pull(t, "t")
	require.NoError(t, a.publish("t", "1"))
	inHand := forA.next()
	forB.ack(forB.next().GetId())

	for range 2 { // idempotent
		_, err := a.pubsub.Pause(a.ctx, &proto.PauseRequest{})
		require.NoError(t, err)
	}
	late := a.pull(t, "late") // a new subscription is paused too
	require.Eventually(t, func() bool { return groupStats(t, h, "late", "a").Streams == 1 }, patience, time.Millisecond)
	require.NoError(t, a.publish("t", "2"))
	require.NoError(t, a.publish("late", "3"))
	require.Equal(t, "2", string(forB.next().GetData()))
	forA.ack(inHand.GetId())
	require.Eventually(t, func() bool {
		g := groupStats(t, h, "t", "a")
		return g.InFlight == 0 && g.Waiting == 1 // the first is done, the second waits
	}, patience, time.Millisecond)
	require.Zero(t, groupStats(t, h, "late", "a").InFlight)

	_, err := a.pubsub.Resume(a.ctx, &proto.ResumeRequest{})
	require.NoError(t, err)
	require.Equal(t, "2", string(forA.next().GetData()))
	require.Equal(t, "3", string(late.next().GetData()))
}

func groupStats(t *testing.T, h *house, topic, group string) pubsub.GroupStats {
	t.Helper()
	topics, err := h.broker().Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	for _, s := range topics {
		for _, g := range s.Groups {
			if s.Topic == topic && g.Group == group {
				return g
			}
		}
	}
	return pubsub.GroupStats{}
}
