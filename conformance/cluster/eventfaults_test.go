package cluster_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

// brokerOptions are those of a bucket on servers.
func brokerOptions(t *testing.T, servers *harness.NATS) natsbroker.Options {
	return natsbroker.Options{
		URL: servers.URL(), Prefix: "test", Bucket: "b", Replicas: len(servers.Servers), SweepInterval: 500 * time.Millisecond, MinPayload: 4 << 20, Timeout: waitLong,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// Without a server, a call says which ones it has tried.
func TestACallSaysThatNoServerCanBeReached(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	opts := brokerOptions(t, servers)
	opts.Timeout = 5 * time.Second
	b := openBroker(t, opts)
	for _, m := range servers.Servers {
		m.Kill()
	}
	const want = "none of the nats servers "
	require.Eventually(t, func() bool {
		err := b.Publish(t.Context(), "t", []pubsub.Message{message("1", "x")}, byID)[0]
		return err != nil && strings.Contains(err.Error(), want+servers.URL()+" can be reached")
	}, waitLong, waitStep)
	_, _, err := b.DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
	require.ErrorContains(t, err, want)
	_, err = b.Servers(t.Context())
	require.ErrorContains(t, err, want)
}

// A backlog of more than a server lets wait on a connection, above which it gives the connection up, comes in order, also behind a
// small event.
func TestALargeBacklogComesInOrder(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Config: "max_pending: 9MB\n"})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.a = openBroker(t, e.opts)
	const n = 64
	e.publish(e.a, "t", byID, message("0", "x"))
	for i := 1; i < n; i++ {
		e.publish(e.a, "t", byID, message(strconv.Itoa(i), strings.Repeat("x", 1000<<10)))
	}
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: n})
	for i := range n {
		require.Equal(t, strconv.Itoa(i), e.next(s).Event.ID)
	}
}

// What all streams of a process have in memory is bounded, though each of them gets one event.
func TestStreamsShareTheBudget(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.opts.Budget = pubsub.NewBudget(4 << 20)
	e.a = openBroker(t, e.opts)
	const n, size = 24, 1000 << 10
	for i := range n {
		e.publish(e.a, "many", byID, message(strconv.Itoa(i), strings.Repeat("x", size)))
	}
	e.publish(e.a, "one", byID, message("1", strings.Repeat("x", size)))
	many := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "many", Group: "g", MaxAckPending: n})
	require.Eventually(t, e.opts.Budget.IsFull, waitLong, waitStep)
	e.next(e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "one", Group: "g"}))
	require.LessOrEqual(t, e.opts.Budget.Used(), e.opts.Budget.Limit()+4<<20+2*size, "beyond the limit, what one request brings and what was taken by then")
	for i := range n {
		d := e.next(many)
		require.Equal(t, strconv.Itoa(i), d.Event.ID)
		d.Ack()
	}
}

// Of an ordered group, too, what is too old becomes dead letters, though nobody consumes.
func testAgeInOrder(e *events) {
	e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", Ordered: true}).Close()
	opts := byID
	opts.Limits.MaxAge = time.Second
	const n = 50
	messages := make([]pubsub.Message, n)
	for i := range messages {
		messages[i] = message(strconv.Itoa(i), "x")
	}
	e.publish(e.a, "t", opts, messages...)
	require.Eventually(e.t, func() bool {
		stats, err := e.a.TopicStats(e.t.Context(), "t")
		return err == nil && stats.Groups[0].Dead == n
	}, waitLong, waitStep)
}

// A stream that has all that it may have in flight, or is paused, keeps its group.
func testRemoveConsumed(e *events) {
	for _, pattern := range []string{"t", "t.*"} {
		topic := strings.ReplaceAll(pattern, "*", "x")
		s := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: pattern, Group: "g", MaxAckPending: 1})
		e.publish(e.a, topic, byID, message("1", "x"), message("2", "x"))
		full := e.next(s)
		require.ErrorContains(e.t, e.a.RemoveGroup(e.t.Context(), pattern, "g"), "live stream")
		require.ErrorContains(e.t, e.a.RemoveTopic(e.t.Context(), topic), "live stream")
		require.ErrorContains(e.t, e.a.Clear(e.t.Context()), "live stream")
		s.Pause()
		full.Ack()
		require.ErrorContains(e.t, e.a.RemoveGroup(e.t.Context(), pattern, "g"), "live stream")
		s.Resume()
		e.next(s).Ack()
		s.Close()
		require.NoError(e.t, e.a.RemoveGroup(e.t.Context(), pattern, "g"))
	}
}

// A group that is removed just as a stream of it is opened begins anew: the stream gets what comes. What is left of a group
// whose removal was cut off goes when it is removed again.
func testRemovedUnderneath(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.publish(e.a, "t", byID, message("1", "x"))
	e.next(s).Bury(pubsub.ReasonTooLarge, "never")
	e.deadLetters(e.b, 1)
	removeUnderneath(e)
	e.publish(e.b, "t", byID, message("2", "x"))
	for e.next(s).Event.ID != "2" {
	}
	s.Close()
	removeUnderneath(e)
	require.Eventually(e.t, func() bool { // the watch is behind
		require.ErrorIs(e.t, e.b.RemoveGroup(e.t.Context(), "t", "g"), pubsub.ErrNotFound)
		letters, _, err := e.b.DeadLetters(e.t.Context(), pubsub.DeadLetterFilter{}, 0)
		require.NoError(e.t, err)
		return len(letters) == 0
	}, waitLong, waitStep)
}

// removeUnderneath does what the beginning of a removal does, behind the brokers' backs.
func removeUnderneath(e *events) {
	nc, err := nats.Connect(e.opts.URL)
	require.NoError(e.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(e.t, err)
	stream, err := js.Stream(e.t.Context(), e.opts.Prefix+"="+e.opts.Bucket)
	require.NoError(e.t, err)
	group, err := stream.GetLastMsgForSubject(e.t.Context(), e.opts.Prefix+"."+e.opts.Bucket+".g.*")
	require.NoError(e.t, err)
	record := map[string]any{}
	require.NoError(e.t, json.Unmarshal(group.Data, &record))
	record["removed"] = true
	text, err := json.Marshal(record)
	require.NoError(e.t, err)
	_, err = js.PublishMsg(e.t.Context(), &nats.Msg{Subject: group.Subject, Data: text, Header: nats.Header{"Nats-Rollup": {"sub"}}})
	require.NoError(e.t, err)
	for name := range stream.ConsumerNames(e.t.Context()).Name() {
		if !strings.HasPrefix(name, "test-") && strings.HasSuffix(name, "_none") {
			require.NoError(e.t, stream.DeleteConsumer(e.t.Context(), name))
		}
	}
}

// What becomes of an event concerns no server once its consumer was removed: a stream that has room for one event goes on at
// once, and one that is closed has ended.
func TestARemovedConsumerHoldsUpNobody(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.opts.Timeout = time.Hour // for which nobody is to wait
	e.opts.SweepInterval = time.Hour
	e.a, e.b = openBroker(t, e.opts), openBroker(t, e.opts)
	for topic, end := range map[string]func(*pubsub.Delivery){
		"acknowledged": func(d *pubsub.Delivery) { d.Ack() },
		"failed":       func(d *pubsub.Delivery) { d.Nack("no") },
	} {
		s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: topic, Group: "g", MaxAckPending: 1})
		e.publish(e.b, topic, byID, message("1", "x"), message("2", "x"))
		held := e.next(s)
		removeUnderneath(e)
		end(held)
		for _, want := range []string{"1", "2"} { // the group begins anew
			d := e.next(s)
			require.Equal(t, want, d.Event.ID)
			if want == "1" {
				d.Ack()
			}
		}
		removeUnderneath(e)
		s.Close()
	}
	stream, _ := e.stream()
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(e.opts.Prefix+"."+e.opts.Bucket+".h.>"))
		return err == nil && len(info.State.Subjects) == 0
	}, waitLong, waitStep, "what was written down of a failed event stays behind")
}

// Servers that have no leader just now do not hear of an acknowledgement either. They are told until they do: an event that was
// acknowledged does not come again.
func TestAnAckOutlivesLostLeaders(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.b = openBroker(t, e.opts)
	s := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.publish(e.b, "t", byID, message("1", "x"))
	e.next(s).Ack() // so the consumer is there
	s.Close()
	stream, _ := e.stream()
	var consumer jetstream.Consumer
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if strings.HasSuffix(name, "_none") {
			var err error
			consumer, err = stream.Consumer(t.Context(), name)
			require.NoError(t, err)
		}
	}
	// The process talks to the server that leads nothing, which stays.
	leaders := []string{stream.CachedInfo().Cluster.Leader, consumer.CachedInfo().Cluster.Leader}
	stays := slices.IndexFunc(servers.Servers, func(m *harness.NATSMember) bool { return !slices.Contains(leaders, m.Name()) })
	e.opts.URL = servers.Servers[stays].URL
	away := slices.Delete(slices.Clone(servers.Servers), stays, stays+1)
	e.a = openBroker(t, e.opts)
	s = e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.publish(e.a, "t", byID, message("2", "x"))
	d := e.next(s)
	require.Equal(t, "2", d.Event.ID)
	for _, m := range away {
		m.Kill()
	}
	d.Ack()
	_, err := e.a.Servers(t.Context())
	require.Error(t, err)
	for _, m := range away {
		require.NoError(t, m.Start())
	}
	require.NoError(t, servers.WaitReady(t.Context()))
	require.Eventually(t, func() bool {
		stats, err := e.a.TopicStats(t.Context(), "t")
		return err == nil && stats.Groups[0].InFlight == 0
	}, waitLong, waitStep)
}

// stoppedClock is that of a process that is stopped for a minute: nothing ticks, and it finds afterwards that time has passed.
type stoppedClock struct{ clockwork.Clock }

func (stoppedClock) NewTicker(d time.Duration) clockwork.Ticker {
	return clockwork.NewFakeClock().NewTicker(d)
}

func (c stoppedClock) Since(t time.Time) time.Duration { return c.Clock.Since(t) + time.Minute }

// A process that was stopped for so long that the server gave its event to another one has no say in what becomes of it.
func TestAStoppedProcessHasNoSay(t *testing.T) {
	t.Parallel()
	e := oneServerAndClock(t, stoppedClock{clockwork.NewRealClock()})
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 1, MaxAckPending: 1}
	slow := e.subscribe(e.a, opts)
	e.publish(e.b, "t", byID, message("1", "x"))
	held := e.next(slow) // and so it asks for no more, as a process that is stopped asks for none
	other := e.subscribe(e.b, opts)
	e.next(other).Ack() // it is given to it after half a minute
	require.Eventually(t, func() bool {
		stats, err := e.b.TopicStats(t.Context(), "t")
		return err == nil && stats.Groups[0].InFlight == 0
	}, waitLong, waitStep)
	held.Nack("too late")
	slow.Close()
	require.NoError(t, e.a.Close(t.Context()))
	e.deadLetters(e.b, 0)
}

// Servers that refuse a process for some time, as with another password, are asked until they take it again.
func TestRefusedForSomeTime(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Config: "authorization { user: u, password: first }\n"})
	opts := brokerOptions(t, servers)
	opts.Username, opts.Password = "u", "first"
	b := openBroker(t, opts)
	publish := func(id string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return b.Publish(ctx, "t", []pubsub.Message{message(id, "x")}, byID)[0]
	}
	require.NoError(t, publish("1", waitLong))
	m := servers.Servers[0]
	restart := func(from, to string) {
		text, err := os.ReadFile(m.Dir + ".conf")
		require.NoError(t, err)
		m.Kill()
		require.NoError(t, os.WriteFile(m.Dir+".conf", []byte(strings.Replace(string(text), from, to, 1)), 0o600))
		require.NoError(t, m.Start())
		require.NoError(t, m.WaitReady(t.Context()))
	}
	restart("first", "other")
	require.Eventually(t, func() bool {
		_, err := b.Servers(t.Context())
		return err != nil && strings.Contains(err.Error(), "uthorization")
	}, waitLong, waitStep)
	require.Error(t, publish("2", 2*time.Second)) // in which the server refuses it some times
	restart("other", "first")
	require.Eventually(t, func() bool { return publish("3", waitLong) == nil }, waitLong, waitStep)
}

// aheadClock is that of a node on which it is five hours later.
type aheadClock struct{ clockwork.Clock }

func (c aheadClock) Now() time.Time { return c.Clock.Now().Add(5 * time.Hour) }

func (c aheadClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// A retry of a process whose clock is ahead comes to another one after its backOff.
func TestAClockAheadHoldsNoRetryUp(t *testing.T) {
	t.Parallel()
	e := oneServerAndClock(t, aheadClock{clockwork.NewRealClock()})
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", Ordered: true, BackOff: pubsub.BackOff{time.Second}}
	s := e.subscribe(e.a, opts)
	e.publish(e.b, "t", byID, message("1", "x"), message("2", "x"))
	e.next(s).Nack("not now")
	s.Close()
	other := e.subscribe(e.b, opts)
	first := e.next(other)
	require.Equal(t, "1", first.Event.ID)
	require.Equal(t, 2, first.Count)
	first.Ack()
	second := e.next(other)
	require.Equal(t, "2", second.Event.ID)
	second.Ack()
}
