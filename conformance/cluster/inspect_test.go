package cluster_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// bolts starts two processes, each with a client whose component init initializes.
func bolts(t *testing.T, h *harness.Harness, init func(c *harness.Client) error) (processes []*harness.Bolt, clients []*harness.Client) {
	for _, name := range []string{"a", "b"} {
		bolt := harness.StartBolt(t, h, harness.BoltOptions{Name: name, DataDir: h.Dir("data-" + name), SocketDir: filepath.Join(h.SocketDir(), name)})
		c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "component")
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, init(c))
		processes, clients = append(processes, bolt), append(clients, c)
	}
	return processes, clients
}

// What one process has written, people see and change through another.
func TestStateInEtcdIsSeenFromAnyProcess(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	processes, clients := bolts(t, h, func(c *harness.Client) error {
		return c.InitState(t.Context(), etcd.Metadata("queryIndexes", "city", "database", "shop")...)
	})
	const database = "etcd-dapr-bolt-shop"
	run := func(result any, args ...string) error {
		return processes[1].Command(t.Context(), result, append([]string{"state", "--database", database}, args...)...)
	}
	for _, key := range []string{"cart||1", "cart||2", "cart||3", "orders||1"} {
		require.NoError(t, clients[0].Set(t.Context(), key, []byte(`{"city":"Rome"}`)))
	}
	_, err := clients[0].State.Set(t.Context(), &proto.SetRequest{
		Key: "brief", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": "3600", "idempotencyKey": "once", "contentType": "text/plain"},
	})
	require.NoError(t, err)

	var keys admin.KeyPage
	require.NoError(t, run(&keys, "list", "cart||", "--limit", "2"))
	require.Len(t, keys.Keys, 2)
	require.Equal(t, "cart||2", keys.Next)
	require.NoError(t, run(&keys, "list", "cart||", "--after", keys.Next))
	require.Len(t, keys.Keys, 1)
	require.Equal(t, "cart||3", keys.Keys[0].Key)
	var apps admin.Apps
	require.NoError(t, run(&apps, "apps"))
	require.Equal(t, []string{"cart", "orders"}, apps.Apps)
	var value admin.Value
	require.NoError(t, run(&value, "get", "brief"))
	require.JSONEq(t, `"v"`, string(value.Data))
	require.Equal(t, "text/plain", value.ContentType)
	require.NotZero(t, value.Expires)
	var remembered admin.IdempotencyPage
	require.NoError(t, run(&remembered, "idempotency-keys"))
	require.Len(t, remembered.Keys, 1)
	require.True(t, remembered.Keys[0].Expires.After(value.Expires))

	require.Eventually(t, func() bool {
		var info admin.StateInfo
		return run(&info, "indexes") == nil && len(info.Indexes) == 1 && info.Indexes[0].Complete
	}, waitLong, waitStep)
	var found admin.QueryResult
	require.NoError(t, run(&found, "query", `{"filter":{"EQ":{"city":"Rome"}}}`))
	require.Len(t, found.Items, 4)
	require.Equal(t, "city", found.Index)

	// A change needs the version, and both processes take it.
	require.NoError(t, run(&value, "get", "cart||1"))
	require.Error(t, run(nil, "set", "cart||1", "new", "--etag", "1-a"))
	require.NoError(t, run(nil, "set", "cart||1", "new", "--etag", value.ETag))
	got, err := clients[0].Get(t.Context(), "cart||1")
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	require.NoError(t, run(nil, "delete", "cart||2", "--force"))

	var overview admin.Overview
	require.NoError(t, processes[1].Command(t.Context(), &overview, "overview"))
	require.Len(t, overview.Sidecars, 1)
	require.Equal(t, database, overview.Sidecars[0].Database)
	var buckets admin.Buckets
	require.NoError(t, processes[1].Command(t.Context(), &buckets, "buckets"))
	require.Contains(t, buckets.State, admin.Bucket{Database: database, Name: "state"})

	// A sidecar works on the bucket; when it is gone, the bucket can go.
	remove := []string{"buckets", "remove", "state", "state", "--database", database, "--yes"}
	require.ErrorContains(t, processes[1].Command(t.Context(), nil, remove...), "works on it")
	require.NoError(t, clients[1].Close())
	require.Eventually(t, func() bool { return processes[1].Command(t.Context(), nil, remove...) == nil }, waitLong, waitStep)
	require.NoError(t, run(&keys, "list"))
	require.Empty(t, keys.Keys)
	require.NoError(t, run(&remembered, "idempotency-keys"))
	require.Empty(t, remembered.Keys)
	_, err = clients[0].State.Set(t.Context(), &proto.SetRequest{Key: "x", Value: []byte(`{"city":"Oslo"}`), Etag: nil})
	require.NoError(t, err, "writers go on")
	require.NoError(t, run(&found, "query", `{"filter":{"EQ":{"city":"Oslo"}}}`))
	require.Len(t, found.Items, 1)
}

// What one process has published and failed to handle, people see and mend through another.
func TestEventsOnNATSAreSeenFromAnyProcess(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	processes, clients := bolts(t, h, func(c *harness.Client) error {
		return c.InitPubSub(t.Context(), nats.Metadata("consumerID", "mail", "maxDeliver", "2", "backOff", "1h")...)
	})
	run := func(result any, args ...string) error {
		return processes[1].Command(t.Context(), result, append(args, "--database", "nats-dapr-bolt")...)
	}
	ctx, stop := context.WithCancel(t.Context())
	stream, err := clients[0].Pull(ctx, "orders")
	require.NoError(t, err)
	receive := func() *proto.PullMessagesResponse {
		m, err := stream.Recv()
		require.NoError(t, err)
		return m
	}
	fail := func(m *proto.PullMessagesResponse) {
		require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId(), AckError: &proto.AckMessageError{Message: "no paper"}}))
	}
	events := func(args ...string) (page admin.EventPage) {
		require.NoError(t, run(&page, append([]string{"topics", "events", "orders"}, args...)...))
		return page
	}
	event := func(sequence uint64) (e admin.EventDetail) {
		require.NoError(t, run(&e, "topics", "event", "orders", fmt.Sprint(sequence)))
		return e
	}
	retries := func(args ...string) (page admin.RetryPage) {
		require.NoError(t, run(&page, append([]string{"retries", "list", "orders"}, args...)...))
		return page
	}
	ids := func(page admin.EventPage) (all []string) {
		for _, e := range page.Events {
			all = append(all, e.ID)
		}
		return all
	}

	// One who watches there sees what is published here.
	watched := make(chan admin.WatchedEvent, 100)
	watching, unwatch := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	client := admin.NewClient(filepath.Join(processes[1].DataDir, admin.SocketName))
	defer client.Close()
	go func() {
		ended <- client.Watch(watching, admin.TopicRequest{Bucket: admin.Bucket{Database: "nats-dapr-bolt"}, Topic: "orders"}, func(e admin.WatchedEvent) error {
			watched <- e
			return nil
		})
	}()
	tries := 0
	require.Eventually(t, func() bool {
		tries++
		require.NoError(t, clients[0].Publish(t.Context(), "orders", fmt.Sprint("try", tries), []byte("{}")))
		return len(watched) > 0
	}, waitLong, 5*waitStep)
	unwatch()
	<-ended
	for range tries {
		require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: receive().GetId()}))
	}
	require.Eventually(t, func() bool {
		var detail admin.TopicDetail
		require.NoError(t, run(&detail, "topics", "show", "orders"))
		return detail.Groups[0].Waiting == 0 && detail.Groups[0].InFlight == 0
	}, waitLong, waitStep)

	for i := range 5 {
		require.NoError(t, clients[0].Publish(t.Context(), "orders", fmt.Sprint("event", i), []byte(`{"n":1}`)))
	}
	page := events("--limit", "2")
	require.Equal(t, []string{"event4", "event3"}, ids(page))
	page = events("--limit", "2", "--before", fmt.Sprint(page.Next))
	require.Equal(t, []string{"event2", "event1"}, ids(page))
	newest := events("--limit", "1").Events[0].Sequence

	inHand := receive()
	for range 4 {
		fail(receive())
	}
	require.Eventually(t, func() bool { return len(retries().Retries) == 4 }, waitLong, waitStep)
	some := retries("--limit", "3")
	require.Len(t, some.Retries, 3)
	rest := retries("--limit", "3", "--after", some.Next)
	require.Len(t, rest.Retries, 1)
	waiting := map[string]bool{}
	for _, r := range append(some.Retries, rest.Retries...) {
		waiting[r.EventID] = true
	}
	require.Len(t, waiting, 4)
	require.Equal(t, "no paper", rest.Retries[0].LastError)
	require.True(t, rest.Retries[0].Due.After(time.Now().Add(30*time.Minute)))
	at := event(newest)
	require.Equal(t, pubsub.EventRetrying, at.Groups[0].State)
	require.Equal(t, 1, at.Groups[0].Deliveries)
	require.True(t, at.Kept)

	// Now, and not in an hour; then it is dead.
	require.NoError(t, run(nil, "retries", "now", "orders", "mail", fmt.Sprint(newest)))
	again := receive()
	require.Equal(t, "2", again.GetMetadata()["deliveryCount"])
	require.ErrorContains(t, run(nil, "retries", "now", "orders", "mail", fmt.Sprint(newest)), "in flight")
	fail(again)
	require.Eventually(t, func() bool { return event(newest).Groups[0].State == pubsub.EventDead }, waitLong, waitStep)
	// Never.
	other := fmt.Sprint(retries().Retries[0].Sequence)
	require.NoError(t, run(nil, "retries", "skip", "orders", "mail", other))
	require.ErrorContains(t, run(nil, "retries", "skip", "orders", "mail", other), "not found")
	require.Len(t, retries().Retries, 2)
	var groups []admin.DeadLetterGroup
	require.NoError(t, run(&groups, "dead-letters", "groups"))
	require.Len(t, groups, 2)
	letters, err := processes[1].DeadLetters(t.Context(), "--database", "nats-dapr-bolt")
	require.NoError(t, err)
	require.Len(t, letters, 2)
	require.Len(t, letters[0].Attempts, 2)
	require.Equal(t, pubsub.ReasonSkipped, letters[1].Reason)
	var overview admin.Overview
	require.NoError(t, processes[1].Command(t.Context(), &overview, "overview"))
	require.EqualValues(t, 2, overview.DeadLetters)

	// A topic that somebody consumes stays.
	remove := []string{"topics", "remove", "orders", "--yes"}
	require.ErrorContains(t, run(nil, remove...), "live stream")
	require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: inHand.GetId()}))
	stop()
	require.Eventually(t, func() bool { return run(nil, remove...) == nil }, waitLong, waitStep)
	var topics admin.Topics
	require.NoError(t, run(&topics, "topics"))
	require.Empty(t, topics.Topics)
	require.ErrorContains(t, run(nil, "topics", "show", "orders"), "not found")
	require.ErrorContains(t, run(nil, "dead-letters", "show", "999999"), "dead letter 999999: not found")
	// It is new to all who come now.
	stream, err = clients[0].Pull(t.Context(), "orders")
	require.NoError(t, err)
	require.NoError(t, clients[1].Publish(t.Context(), "orders", "new", []byte("{}")))
	require.Equal(t, "1", receive().GetMetadata()["deliveryCount"])
	require.Len(t, events().Events, 1)
	require.Empty(t, retries().Retries)
}
