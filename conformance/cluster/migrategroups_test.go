package cluster_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func boltSocket(bolt *harness.Bolt) string { return filepath.Join(bolt.SocketDir, "bolt.sock") }

// shop is three groups at one place: "mail" consumes orders.> in order, "audit" *.eu, and "print" the topic orders.eu alone.
type shop struct {
	t         *testing.T
	bolt      *harness.Bolt
	place     []string
	database  string // of its events, as people call it
	publisher *harness.Client

	mail, audit, print *member
}

// member is a group's only consumer.
type member struct {
	shop   *shop
	group  string
	stream proto.PubSub_PullMessagesClient
	stop   context.CancelFunc
}

func openShop(t *testing.T, bolt *harness.Bolt, place []string, database string) *shop {
	s := &shop{t: t, bolt: bolt, place: place, database: database}
	s.publisher = s.client("publisher")
	s.mail = s.join("mail", "orders.>", "ordered", "true")
	s.audit = s.join("audit", "*.eu")
	s.print = s.join("print", "orders.eu")
	return s
}

func (s *shop) client(group string, settings ...string) *harness.Client {
	c, err := harness.Dial(boltSocket(s.bolt), group)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = c.Close() })
	settings = append(append(slices.Clone(s.place), "consumerID", group, "backOff", "1h", "dedupWindow", "1h"), settings...)
	require.NoError(s.t, c.InitPubSub(s.t.Context(), settings...))
	return c
}

func (s *shop) join(group, topic string, settings ...string) *member {
	m := &member{shop: s, group: group}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(s.t.Context())
	var err error
	m.stream, err = s.client(group, settings...).Pull(ctx, topic)
	require.NoError(s.t, err)
	return m
}

// gets takes so many events, which are acknowledged but for those that fail, and returns them as id and delivery count.
func (m *member) gets(n int, fail ...string) (got []string) {
	defer time.AfterFunc(waitLong, m.stop).Stop()
	for range n {
		d, err := m.stream.Recv()
		require.NoError(m.shop.t, err)
		id := string(d.GetData())
		got = append(got, id+" "+d.GetMetadata()["deliveryCount"])
		answer := &proto.PullMessagesRequest{AckMessageId: d.GetId()}
		if slices.Contains(fail, id) {
			answer.AckError = &proto.AckMessageError{Message: "not now"}
		}
		require.NoError(m.shop.t, m.stream.Send(answer))
	}
	return got
}

// publish takes pairs of an event's id and its partition key.
func (s *shop) publish(topic string, events ...string) {
	for event := range slices.Chunk(events, 2) {
		metadata := map[string]string{"eventID": event[0]}
		if event[1] != "" {
			metadata["partitionKey"] = event[1]
		}
		_, err := s.publisher.PubSub.Publish(s.t.Context(), &proto.PublishRequest{Topic: topic, Data: []byte(event[0]), Metadata: metadata})
		require.NoError(s.t, err)
	}
}

// retry finds the event that waits for another delivery to a group.
func (s *shop) retry(topic, group, id string) (sequence string) {
	require.Eventually(s.t, func() bool {
		var page admin.RetryPage
		_ = s.bolt.Command(s.t.Context(), &page, "retries", "list", topic, "--group", group, "--database", s.database)
		for _, r := range page.Retries {
			if r.EventID == id && !r.Due.IsZero() {
				sequence = fmt.Sprint(r.Sequence)
			}
		}
		return sequence != ""
	}, waitLong, waitStep, "%s waits for another delivery to %s", id, group)
	return sequence
}

func (s *shop) now(topic, group, id string) {
	require.NoError(s.t, s.bolt.Command(s.t.Context(), nil, "retries", "now", topic, group, s.retry(topic, group, id), "--database", s.database))
}

// close waits until as much is owed, and ends consumers and process.
func (s *shop) close(owed int) {
	require.Eventually(s.t, func() bool {
		var topics []admin.TopicStats
		if s.bolt.Command(s.t.Context(), &topics, "topics", "--database", s.database) != nil {
			return false
		}
		n := 0
		for _, topic := range topics {
			for _, g := range topic.Groups {
				n += int(g.Waiting + g.InFlight + g.Retrying)
			}
		}
		return n == owed
	}, waitLong, waitStep, "%d are owed", owed)
	for _, m := range []*member{s.mail, s.audit, s.print} {
		m.stop()
	}
	require.NoError(s.t, s.publisher.Close())
	require.NoError(s.t, s.bolt.Stop())
}

// What wildcard groups and ordered groups are owed goes to the servers and back: nothing more or less, in its order, and what
// waits for a retry is not overtaken.
func TestMigrateGroups(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	natses := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	onFile, onServers, back := []string{"database", "dapr"}, natses.Metadata(), []string{"database", "back"}

	s := openShop(t, bolt, onFile, "dapr")
	s.publish("orders.eu", "eu-1", "k", "eu-2", "k", "eu-3", "j")
	s.publish("orders.us", "us-1", "", "us-2", "")
	s.publish("bills.eu", "bill-1", "", "bill-2", "")
	require.ElementsMatch(t, []string{"eu-1 1", "us-1 1", "us-2 1"}, s.mail.gets(3, "eu-1"))
	require.ElementsMatch(t, []string{"eu-1 1", "eu-2 1", "eu-3 1", "bill-1 1", "bill-2 1"}, s.audit.gets(5, "eu-3", "bill-1"))
	require.ElementsMatch(t, []string{"eu-1 1", "eu-3 1"}, s.print.gets(2, "eu-1"))
	require.NoError(t, bolt.Command(t.Context(), nil, "retries", "skip", "bills.eu", "audit", s.retry("bills.eu", "audit", "bill-1"), "--database", "dapr"))
	s.close(6) // mail: eu-1 to eu-3; audit: eu-3; print: eu-1, eu-2

	there, err := migrate(t, bolt, "pubsub", onFile, onServers)
	require.NoError(t, err)
	require.Equal(t, map[pubsub.RecordKind]uint64{
		pubsub.RecordTopic: 3, pubsub.RecordGroup: 7, pubsub.RecordOwed: 6, pubsub.RecordDead: 1, pubsub.RecordID: 7,
	}, there.Events.Counts)
	require.NoError(t, bolt.Restart(t.Context()))
	s = openShop(t, bolt, onServers, "nats-dapr-bolt")
	// A pattern gets what comes, and a topic that is new.
	s.publish("orders.us", "us-3", "")
	s.publish("orders.de", "de-1", "")
	require.ElementsMatch(t, []string{"us-3 1", "de-1 1"}, s.mail.gets(2))
	s.publish("orders.eu", "eu-2", "k", "eu-4", "") // eu-2 is known
	require.Equal(t, []string{"eu-4 1"}, s.audit.gets(1))
	require.Equal(t, []string{"eu-4 1"}, s.print.gets(1))
	s.now("orders.eu", "mail", "eu-1")
	require.Equal(t, []string{"eu-1 2", "eu-2 1", "eu-3 1"}, s.mail.gets(3, "eu-3"))
	s.now("orders.eu", "audit", "eu-3")
	require.Equal(t, []string{"eu-3 2"}, s.audit.gets(1, "eu-3"))
	s.now("orders.eu", "print", "eu-1")
	require.Equal(t, []string{"eu-1 2", "eu-2 1"}, s.print.gets(2, "eu-2"))
	s.retry("orders.eu", "mail", "eu-3")
	s.retry("orders.eu", "audit", "eu-3")
	s.retry("orders.eu", "print", "eu-2")
	s.close(4) // mail: eu-3, eu-4; audit: eu-3; print: eu-2

	home, err := migrate(t, bolt, "pubsub", onServers, back)
	require.NoError(t, err)
	require.Equal(t, map[pubsub.RecordKind]uint64{
		pubsub.RecordTopic: 4, pubsub.RecordGroup: 8, pubsub.RecordOwed: 4, pubsub.RecordDead: 1, pubsub.RecordID: 10,
	}, home.Events.Counts)
	require.NoError(t, bolt.Restart(t.Context()))
	s = openShop(t, bolt, back, "back")
	s.publish("orders.us", "us-4", "")
	require.Equal(t, []string{"us-4 1"}, s.mail.gets(1))
	s.now("orders.eu", "mail", "eu-3")
	require.Equal(t, []string{"eu-3 2", "eu-4 1"}, s.mail.gets(2))
	s.now("orders.eu", "audit", "eu-3")
	require.Equal(t, []string{"eu-3 3"}, s.audit.gets(1))
	s.now("orders.eu", "print", "eu-2")
	require.Equal(t, []string{"eu-2 2"}, s.print.gets(1))
	require.NoError(t, bolt.Command(t.Context(), nil, "dead-letters", "redrive", "--all", "--database", "back"))
	require.Equal(t, []string{"bill-1 1"}, s.audit.gets(1))
	s.close(0)
}
