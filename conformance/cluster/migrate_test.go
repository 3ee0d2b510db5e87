package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// migrated is what `dapr-bolt migrate --output json` prints.
type migrated struct {
	State  statestore.Copied
	Events pubsub.Copied
}

// app is the components of an app on one process, as a sidecar has them.
type app struct {
	t             *testing.T
	bolt          *harness.Bolt
	state, events *harness.Client
	stream        proto.PubSub_PullMessagesClient
	stop          context.CancelFunc
	database      string // of its events, as people call it
}

func startApp(t *testing.T, bolt *harness.Bolt, state, events []string, database string) *app {
	a := &app{t: t, bolt: bolt, database: database}
	dial := func(name string) *harness.Client {
		c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), name)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	a.state, a.events = dial("state"), dial("events")
	require.NoError(t, a.state.InitState(t.Context(), state...))
	require.NoError(t, a.events.InitPubSub(t.Context(), append(events, "consumerID", "mail", "backOff", "1h", "dedupWindow", "1h")...))
	return a
}

func (a *app) subscribe() {
	var ctx context.Context
	ctx, a.stop = context.WithCancel(a.t.Context())
	var err error
	a.stream, err = a.events.Pull(ctx, "orders")
	require.NoError(a.t, err)
}

// next is the next event, which is acknowledged, or fails for a reason.
func (a *app) next(reason string) *proto.PullMessagesResponse {
	m, err := a.stream.Recv()
	require.NoError(a.t, err)
	answer := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
	if reason != "" {
		answer.AckError = &proto.AckMessageError{Message: reason}
	}
	require.NoError(a.t, a.stream.Send(answer))
	return m
}

func (a *app) publish(id string, metadata ...string) {
	m := harness.Pairs(metadata)
	m["eventID"] = id
	_, err := a.events.PubSub.Publish(a.t.Context(), &proto.PublishRequest{Topic: "orders", Data: []byte(id), Metadata: m})
	require.NoError(a.t, err)
}

func (a *app) run(result any, args ...string) {
	require.NoError(a.t, a.bolt.Command(a.t.Context(), result, append(args, "--database", a.database)...))
}

func (a *app) retries() (page admin.RetryPage) {
	a.run(&page, "retries", "list", "orders")
	return page
}

// end stops app and process, once the process knows what became of the deliveries.
func (a *app) end() {
	if a.stop != nil {
		a.stop()
	}
	_ = a.state.Close()
	_ = a.events.Close()
	require.NoError(a.t, a.bolt.Stop())
}

func (a *app) set(key, value string, metadata ...string) {
	_, err := a.state.State.Set(a.t.Context(), &proto.SetRequest{Key: key, Value: []byte(value), Metadata: harness.Pairs(metadata)})
	require.NoError(a.t, err)
}

func (a *app) get(key string) *proto.GetResponse {
	got, err := a.state.State.Get(a.t.Context(), &proto.GetRequest{Key: key})
	require.NoError(a.t, err)
	return got
}

// componentFile writes a component's file with metadata as pairs.
func componentFile(t *testing.T, kind string, pairs []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: c\nspec:\n  type: %s.bolt\n  version: v1\n  metadata:\n", kind)
	for name, value := range harness.Pairs(pairs) {
		fmt.Fprintf(&b, "    - name: %s\n      value: %q\n", name, value)
	}
	path := filepath.Join(t.TempDir(), kind+".yaml")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// migrate runs the command between two components of a kind, each with metadata as pairs.
func migrate(t *testing.T, bolt *harness.Bolt, kind string, from, to []string) (result migrated, err error) {
	err = bolt.Command(t.Context(), &result, "migrate", "--from", componentFile(t, kind, from), "--to", componentFile(t, kind, to))
	return result, err
}

// A process may have just begun, and only publish.
func TestMigrateRefusesEventsThatAProcessWorksOn(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	natses := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	c := newClient(t, bolt)
	require.NoError(t, c.InitPubSub(t.Context(), natses.Metadata()...))
	for _, places := range [][2][]string{{natses.Metadata(), {"database", "other"}}, {{"database", "other"}, natses.Metadata()}} {
		_, err := migrate(t, bolt, "pubsub", places[0], places[1])
		require.ErrorContains(t, err, "one that no dapr-bolt works on: stop them first")
	}
}

// An app goes from the file to servers and back, and finds everything as it was.
func TestMigrate(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	natses := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	onFile := [2][]string{{"database", "dapr"}, {"database", "dapr"}}
	onServers := [2][]string{etcd.Metadata(), natses.Metadata()}
	back := [2][]string{{"database", "back"}, {"database", "back"}}
	migrate := func(from, to [2][]string) (all migrated, err error) {
		if all, err = migrate(t, bolt, "state", from[0], to[0]); err != nil {
			return all, err
		}
		events, err := migrate(t, bolt, "pubsub", from[1], to[1])
		all.Events = events.Events
		return all, err
	}

	a := startApp(t, bolt, onFile[0], onFile[1], "dapr")
	a.set("plain", "v")
	a.set("brief", "v", "ttlInSeconds", "3600", "contentType", "text/plain")
	a.set("once", "first", "idempotencyKey", "id1")
	oldETag := a.get("plain").GetEtag().GetValue()
	a.subscribe()
	a.publish("acked")
	require.Equal(t, "acked", string(a.next("").GetData()))
	for _, id := range []string{"dead", "retried"} {
		a.publish(id)
		require.Equal(t, id, string(a.next("no paper").GetData()))
	}
	require.Eventually(t, func() bool { return len(a.retries().Retries) == 2 }, waitLong, waitStep)
	for _, r := range a.retries().Retries {
		if r.EventID == "dead" {
			a.run(nil, "retries", "skip", "orders", "mail", fmt.Sprint(r.Sequence))
		}
	}
	due := a.retries().Retries[0].Due
	a.publish("late", "deliverAfter", "1h")
	a.stop()
	a.publish("owed1", "partitionKey", "k")
	a.publish("owed2", "partitionKey", "k")
	_, err := migrate(onFile, onServers)
	require.ErrorContains(t, err, "stop it first")
	a.end()

	counts := map[pubsub.RecordKind]uint64{
		pubsub.RecordTopic: 1, pubsub.RecordGroup: 1, pubsub.RecordOwed: 3, pubsub.RecordDelayed: 1, pubsub.RecordDead: 1, pubsub.RecordID: 6,
	}
	there, err := migrate(onFile, onServers)
	require.NoError(t, err)
	require.EqualValues(t, 3, there.State.Keys)
	require.EqualValues(t, 1, there.State.IdempotencyKeys)
	require.Equal(t, counts, there.Events.Counts)

	// It is all there, on servers.
	check := func(a *app) {
		require.Equal(t, "v", string(a.get("plain").GetData()))
		require.NotEmpty(t, a.get("brief").GetMetadata()["ttlExpireTime"])
		a.set("once", "second", "idempotencyKey", "id1")
		require.Equal(t, "first", string(a.get("once").GetData()), "the key is remembered")
		letters, err := a.bolt.DeadLetters(t.Context(), "--database", a.database)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.Equal(t, "dead", letters[0].Event.ID)
		require.Equal(t, pubsub.ReasonSkipped, letters[0].Reason)
		require.Equal(t, "no paper", letters[0].Attempts[0].Error)
	}
	require.NoError(t, bolt.Restart(t.Context()))
	b := startApp(t, bolt, onServers[0], onServers[1], "nats-dapr-bolt")
	check(b)
	_, err = b.state.State.Set(t.Context(), &proto.SetRequest{Key: "plain", Value: []byte("x"), Etag: &proto.Etag{Value: oldETag}})
	require.Error(t, err, "an ETag of the file is not taken")
	b.subscribe()
	// The ids are remembered, and the order is kept.
	b.publish("acked")
	require.Equal(t, "owed1", string(b.next("").GetData()))
	require.Equal(t, "owed2", string(b.next("later").GetData()))
	require.Eventually(t, func() bool { return len(b.retries().Retries) == 2 }, waitLong, waitStep)
	b.publish("new")
	require.Equal(t, "new", string(b.next("").GetData()))
	require.Eventually(t, func() bool {
		var detail admin.TopicDetail
		b.run(&detail, "topics", "show", "orders")
		return detail.Groups[0].Waiting == 0 && detail.Groups[0].InFlight+detail.Groups[0].Retrying == 2
	}, waitLong, waitStep)
	b.end()
	again := onServers
	again[0] = append([]string{"prefix", "other"}, again[0]...)
	_, err = migrate(onFile, again)
	require.ErrorContains(t, err, "it holds something, and that is no unfinished copy", "events are not mixed")

	// And back: one event less is owed, and its id is one more.
	counts[pubsub.RecordOwed], counts[pubsub.RecordID] = 2, 7
	home, err := migrate(onServers, back)
	require.NoError(t, err)
	require.Equal(t, there.State.Keys, home.State.Keys)
	require.Equal(t, counts, home.Events.Counts)
	require.NoError(t, bolt.Restart(t.Context()))
	c := startApp(t, bolt, back[0], back[1], "back")
	check(c)
	retries := c.retries().Retries
	require.Len(t, retries, 2)
	for _, r := range retries {
		if r.EventID == "retried" {
			require.True(t, due.Equal(r.Due), "%s, %s expected", r.Due, due)
			require.Equal(t, 1, r.Deliveries)
		}
	}
	c.subscribe()
	for _, r := range retries {
		c.run(nil, "retries", "now", "orders", "mail", fmt.Sprint(r.Sequence))
		require.Equal(t, "2", c.next("").GetMetadata()["deliveryCount"])
	}
	c.publish("owed1")
	c.publish("last")
	require.Equal(t, "last", string(c.next("").GetData()))
	c.end()
}

// A migration that is killed, and run again, has everything once.
func TestMigrateOutlivesKills(t *testing.T) {
	t.Parallel()
	const many, payload, value = 2000, 1 << 10, 8 << 10 // in many commits
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	natses := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, nil, nil, "dapr")
	a.subscribe()
	require.Eventually(t, func() bool { // the group is there
		var topics []admin.TopicStats
		a.run(&topics, "topics")
		return len(topics) == 1 && len(topics[0].Groups) == 1
	}, waitLong, 20*time.Millisecond)
	a.stop()
	var sets []*proto.SetRequest
	var events []*proto.BulkMessageEntry
	for i := range many {
		sets = append(sets, &proto.SetRequest{Key: fmt.Sprint(i), Value: make([]byte, value)})
		events = append(events, &proto.BulkMessageEntry{EntryId: fmt.Sprint(i), Event: make([]byte, payload), Metadata: map[string]string{"eventID": fmt.Sprint(i)}})
	}
	for some := range slices.Chunk(sets, many/8) {
		_, err := a.state.State.BulkSet(t.Context(), &proto.BulkSetRequest{Items: some})
		require.NoError(t, err)
	}
	_, err := a.events.PubSub.BulkPublish(t.Context(), &proto.BulkPublishRequest{Topic: "orders", Entries: events})
	require.NoError(t, err)
	a.end()

	path, err := harness.BoltProgram()
	require.NoError(t, err)
	copies := map[string]func() (records int, whole bool){"state": countState(t, etcd, many), "pubsub": countEvents(t, natses)}
	to := map[string][]string{"state": etcd.Metadata(), "pubsub": natses.Metadata()}
	for kind, count := range copies {
		args := []string{"migrate", "--from", componentFile(t, kind, nil), "--to", componentFile(t, kind, to[kind])}
		// Each is killed in the middle of its copy: it has changed something, and is not done.
		for range 2 {
			before, _ := count()
			cmd := exec.CommandContext(t.Context(), path, append(args, "--data-dir", bolt.DataDir)...)
			var said bytes.Buffer
			cmd.Stderr = &said
			require.NoError(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for records := before; records == before || records == 0; records, _ = count() {
				require.Empty(t, ended, "%s: it ended by itself: %s", kind, &said)
			}
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, <-ended, "it had not ended")
			_, whole := count()
			require.False(t, whole, "%s: it was killed in the middle", kind)
		}
		var result migrated
		require.NoError(t, bolt.Command(t.Context(), &result, args...))
		_, whole := count()
		require.True(t, whole)
		if kind == "state" {
			require.EqualValues(t, many, result.State.Keys)
		} else {
			require.EqualValues(t, many, result.Events.Counts[pubsub.RecordOwed])
			require.EqualValues(t, many, result.Events.Counts[pubsub.RecordID])
		}
	}

	require.NoError(t, bolt.Restart(t.Context()))
	b := startApp(t, bolt, to["state"], to["pubsub"], "nats-dapr-bolt")
	require.Len(t, b.get("7").GetData(), value)
	b.subscribe()
	b.publish("5") // it is remembered
	b.publish("end")
	seen := map[string]bool{}
	for {
		m := b.next("")
		if string(m.GetData()) == "end" {
			break
		}
		require.False(t, seen[m.GetMetadata()["sequence"]])
		seen[m.GetMetadata()["sequence"]] = true
	}
	require.Len(t, seen, many)
	b.end()
}

// countState returns what counts the keys of a store on etcd, of which there are to be so many.
func countState(t *testing.T, etcd *harness.Etcd, many int) func() (int, bool) {
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(etcd.Endpoints(), ",")})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return func() (int, bool) {
		all, err := client.Get(t.Context(), "dapr-bolt/dapr/state/state/v", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		return int(all.Count), int(all.Count) == many
	}
}

// countEvents returns what counts the events that a group is owed on the servers. The copy is whole when the mark of one that
// is under way is gone.
func countEvents(t *testing.T, servers *harness.NATS) func() (int, bool) {
	conn, err := nats.Connect(servers.URL())
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	return func() (int, bool) {
		stream, err := js.Stream(t.Context(), "dapr-bolt=dapr=pubsub")
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return 0, false
		}
		require.NoError(t, err)
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("dapr-bolt.dapr=pubsub.r.>"))
		require.NoError(t, err)
		messages := 0
		for _, of := range info.State.Subjects {
			messages += int(of)
		}
		_, err = stream.GetLastMsgForSubject(t.Context(), "dapr-bolt.dapr=pubsub.i")
		return messages, errors.Is(err, jetstream.ErrMsgNotFound)
	}
}
