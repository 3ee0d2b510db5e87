package monitoring

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// counted matches what an engine has its part in, and what is the same whatever the engine is: how often, and not how long.
var counted = regexp.MustCompile(`^dapr_bolt_(?:(?:topic|group)_\w+|(?:state|publish)_calls_total|\w+_count)$`)

// ownCounts are what an engine counts in a way of its own, or not at all; docs/metrics.md says so.
var ownCounts = regexp.MustCompile(`^dapr_bolt_(topic_bytes|topic_last_sequence|topic_oldest_\w+|group_oldest_\w+|database_\w+)$`)

// scrape returns the series of a process that are counted and not zero, the name of the database left out, which must be
// the one given.
func scrape(ctx context.Context, c require.TestingT, bolt *harness.Bolt, state, events string) map[string]float64 {
	answer, err := harness.Call(ctx, "GET", "http://"+bolt.HTTPAddress+"/metrics", nil)
	require.NoError(c, err)
	require.NoError(c, answer.OK())
	found := map[string]float64{}
	for line := range strings.Lines(string(answer.Body)) {
		series, text, _ := strings.Cut(strings.TrimSpace(line), "} ")
		name, labels, labelled := strings.Cut(series, "{")
		value, err := strconv.ParseFloat(text, 64)
		if !labelled || err != nil || value == 0 || !counted.MatchString(name) || ownCounts.MatchString(name) {
			continue
		}
		database := state
		if !strings.Contains(name, "state_") {
			database = events
		}
		require.Contains(c, labels, `database="`+database+`"`, series)
		found[name+"{"+strings.Replace(labels, `database="`+database+`"`, "", 1)] = value
	}
	return found
}

// happen makes everything happen once that is counted, and returns what asks for what is counted. It goes on until the test
// ends.
func happen(t *testing.T, bus, store []string, state, events string) func(require.TestingT) map[string]float64 {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	ctx := t.Context()
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "component")
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.InitState(ctx, store...))
	require.NoError(t, c.InitPubSub(ctx, append(bus, "consumerID", "app", "maxDeliver", "2", "backOff", "0s")...))

	require.NoError(t, c.Set(ctx, "key", []byte("value")))
	for range 2 {
		_, err = c.Get(ctx, "key")
		require.NoError(t, err)
	}
	_, err = c.State.Set(ctx, &proto.SetRequest{Key: "key", Value: []byte("x"), Etag: &proto.Etag{Value: "99"}})
	require.Error(t, err)
	_, err = c.State.BulkSet(ctx, &proto.BulkSetRequest{Items: []*proto.SetRequest{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}})
	require.NoError(t, err)
	_, err = c.State.BulkGet(ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: "a"}, {Key: "none"}}})
	require.NoError(t, err)
	_, err = c.State.Delete(ctx, &proto.DeleteRequest{Key: "a"})
	require.NoError(t, err)

	first, err := c.Pull(ctx, "orders")
	require.NoError(t, err)
	answer := func(stream proto.PubSub_PullMessagesClient, id, failure string) {
		t.Helper()
		m, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, id, string(m.GetData()))
		ack := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
		if failure != "" {
			ack.AckError = &proto.AckMessageError{Message: failure}
		}
		require.NoError(t, stream.Send(ack))
	}
	publish := func(topic, id string, metadata ...string) {
		t.Helper()
		_, err := c.PubSub.Publish(ctx, &proto.PublishRequest{Topic: topic, Data: []byte(id), Metadata: harness.Pairs(append(metadata, "eventID", id))})
		require.NoError(t, err)
	}
	publish("orders", "good")
	answer(first, "good", "")
	publish("orders", "good") // a duplicate
	publish("orders", "bad")
	answer(first, "bad", "no")
	answer(first, "bad", "no, again")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		letters, err := bolt.DeadLetters(ctx, "--database", events)
		require.NoError(c, err)
		require.Len(c, letters, 1)
		require.NoError(c, bolt.Command(ctx, nil, "dead-letters", "redrive", fmt.Sprint(letters[0].ID), "--database", events))
	}, patience, 20*time.Millisecond)
	answer(first, "bad", "")
	publish("orders", "later", "deliverAfter", "1h")
	publish("orders", "in flight")
	_, err = first.Recv()
	require.NoError(t, err)
	// What has ended before anybody is there for it.
	left, leave := context.WithCancel(ctx)
	second, err := c.Pull(left, "invoices")
	require.NoError(t, err)
	publish("invoices", "seen")
	answer(second, "seen", "")
	leave()
	_, _ = second.Recv()
	publish("invoices", "short", "ttlInSeconds", "1")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var kept struct {
			Events []struct {
				ID      string
				Expires time.Time
			}
		}
		require.NoError(c, bolt.Command(ctx, &kept, "topics", "events", "invoices", "--database", events))
		for _, e := range kept.Events {
			require.False(c, time.Now().Before(e.Expires), e.ID)
		}
	}, patience, 20*time.Millisecond)
	third, err := c.Pull(ctx, "invoices")
	require.NoError(t, err)
	publish("invoices", "seen too")
	answer(third, "seen too", "")
	_, err = c.PubSub.Publish(ctx, &proto.PublishRequest{Topic: "", Data: []byte("x")})
	require.Error(t, err)

	return func(t require.TestingT) map[string]float64 { return scrape(ctx, t, bolt, state, events) }
}

// The process counts the same whatever the engine is.
func TestEveryEngineIsCountedAlike(t *testing.T) {
	want := happen(t, nil, nil, "dapr", "dapr")
	h := harness.ForTest(t)
	nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	got := happen(t, nats.Metadata(), etcd.Metadata(),
		"etcd-dapr-bolt", "nats-dapr-bolt")
	// Acknowledgements are written down, and what is done is swept, a little later.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		counts := want(c)
		require.Equal(c, counts, got(c))
		require.Contains(c, fmt.Sprint(counts), "dapr_bolt_group_expired_total")
	}, patience, 100*time.Millisecond)
}

// Each flag that sets a limit says in a metric what is used of it.
func TestEveryLimitIsMeasured(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	help, err := exec.CommandContext(t.Context(), bolt.Path(), "--help").Output()
	require.NoError(t, err)
	flags := regexp.MustCompile(`--(max-[a-z-]+)`).FindAllSubmatch(help, -1)
	require.NotEmpty(t, flags)
	answer, err := harness.Call(t.Context(), "GET", "http://"+bolt.HTTPAddress+"/metrics", nil)
	require.NoError(t, err)
	for _, flag := range flags {
		for _, metric := range []string{"dapr_bolt_limit", "dapr_bolt_limit_used"} {
			require.Contains(t, string(answer.Body), fmt.Sprintf("%s{flag=%q}", metric, flag[1]))
		}
	}
}
