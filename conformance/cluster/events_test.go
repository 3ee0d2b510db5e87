package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

// waitLong is how long a test waits for what must come before it gives up, and waitStep how often it looks.
const (
	waitLong = 2 * time.Minute
	waitStep = 20 * time.Millisecond
)

// events is a bucket on three nats-servers, and two processes' brokers on it.
type events struct {
	t    *testing.T
	nats *harness.NATS
	opts natsbroker.Options
	a, b *natsbroker.Broker
}

var byID = pubsub.PublishOptions{DedupWindow: time.Minute}

func openBroker(t *testing.T, opts natsbroker.Options) *natsbroker.Broker {
	t.Helper()
	b, err := natsbroker.Open(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitLong)
		defer cancel()
		require.NoError(t, b.Close(ctx))
	})
	return b
}

// in returns brokers on a bucket of its own.
func (e *events) in(t *testing.T, bucket string) *events {
	opts := e.opts
	opts.Bucket = bucket
	return &events{t: t, nats: e.nats, opts: opts, a: openBroker(t, opts), b: openBroker(t, opts)}
}

func (e *events) publish(b *natsbroker.Broker, topic string, opts pubsub.PublishOptions, messages ...pubsub.Message) {
	e.t.Helper()
	for _, err := range b.Publish(e.t.Context(), topic, messages, opts) {
		require.NoError(e.t, err)
	}
}

func (e *events) subscribe(b *natsbroker.Broker, opts pubsub.SubscribeOptions) pubsub.Subscription {
	e.t.Helper()
	if opts.MaxAckPending == 0 {
		opts.MaxAckPending = 64
	}
	s, err := b.Subscribe(e.t.Context(), opts)
	require.NoError(e.t, err)
	e.t.Cleanup(s.Close)
	return s
}

func (e *events) next(s pubsub.Subscription) *pubsub.Delivery {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), waitLong)
	defer cancel()
	d, err := s.Next(ctx)
	require.NoError(e.t, err)
	return d
}

// deadLetters waits until there are n.
func (e *events) deadLetters(b *natsbroker.Broker, n int) (all []pubsub.DeadLetter) {
	e.t.Helper()
	require.Eventually(e.t, func() bool {
		var err error
		all, _, err = b.DeadLetters(e.t.Context(), pubsub.DeadLetterFilter{}, 0)
		return err == nil && len(all) == n
	}, waitLong, 20*time.Millisecond, "%d dead letters, %d expected", len(all), n)
	return all
}

func message(id, data string) pubsub.Message {
	return pubsub.Message{EventID: id, Data: []byte(data)}
}

// What a broker promises holds for two processes on three servers.
func TestEventsOnNATS(t *testing.T) {
	h := harness.ForTest(t)
	servers := harness.StartNATS(t, h, harness.ClusterOptions{})
	base := &events{t: t, nats: servers, opts: natsbroker.Options{
		URL: servers.URL(), Prefix: "test", Replicas: 3, SweepInterval: 500 * time.Millisecond, MinPayload: 4 << 20, Timeout: waitLong,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	for name, test := range map[string]func(*events){
		"duplicates":      testDuplicates,
		"retries":         testRetries,
		"ordered":         testOrdered,
		"partition keys":  testPartitionKeys,
		"wildcards":       testWildcards,
		"delays":          testDelays,
		"expiry":          testExpiry,
		"age":             testAge,
		"age in order":    testAgeInOrder,
		"remove consumed": testRemoveConsumed,
		"remove and open": testRemovedUnderneath,
		"trim":            testTrim,
		"ack wait":        testAckWait,
		"ack after it":    testAckAfterAckWait,
		"pause":           testPause,
		"groups":          testGroups,
		"processes share": testProcessesShare,
		"open together":   testOpenTogether,
		"full":            testFull,
	} {
		t.Run(name, func(t *testing.T) {
			bucket := fmt.Sprintf("b%d", time.Now().UnixNano())
			test(base.in(t, bucket))
		})
	}
}

func testDuplicates(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	var publishing sync.WaitGroup
	for i := range 20 {
		for _, b := range []*natsbroker.Broker{e.a, e.b} {
			publishing.Go(func() {
				for _, err := range b.Publish(e.t.Context(), "t", []pubsub.Message{message(strconv.Itoa(i), "x"), message(strconv.Itoa(i), "x")}, byID) {
					if err != nil {
						e.t.Error(err)
					}
				}
			})
		}
	}
	publishing.Wait()
	seen := map[string]bool{}
	for range 20 {
		d := e.next(s)
		require.False(e.t, seen[d.Event.ID], "event %s came twice", d.Event.ID)
		seen[d.Event.ID] = true
		d.Ack()
	}
	// The other ways to tell duplicates, by whichever process they are published.
	for _, way := range []struct {
		by    string
		times uint64
	}{{"fields:type,data.id", 1}, {"none", 2}} {
		by, err := pubsub.ParseDedupBy(way.by)
		require.NoError(e.t, err)
		for i, b := range []*natsbroker.Broker{e.a, e.b} {
			e.publish(b, way.by, pubsub.PublishOptions{DedupBy: by, DedupWindow: time.Minute},
				pubsub.Message{Data: fmt.Appendf(nil, `{"id":"%d","type":"t","data":{"id":7,"by":%d}}`, i, i)})
		}
		second, err := e.b.TopicStats(e.t.Context(), way.by)
		require.NoError(e.t, err)
		require.Equal(e.t, 2-way.times, second.Duplicates)
		require.Eventually(e.t, func() bool { return e.stored(way.by) == way.times }, waitLong, waitStep, "%s: %d are stored", way.by, way.times)
	}
	short := pubsub.PublishOptions{DedupWindow: time.Second}
	data, err := pubsub.ParseDedupBy("data")
	require.NoError(e.t, err)
	for range 3 {
		e.publish(e.b, "t", pubsub.PublishOptions{DedupBy: data, DedupWindow: time.Minute}, pubsub.Message{Data: []byte("same")})
	}
	e.publish(e.a, "t", short, message("short", "1"))
	require.Equal(e.t, "same", string(e.next(s).Event.Data))
	require.Equal(e.t, "1", string(e.next(s).Event.Data))
	// Once the window has ended, the id is a new one.
	require.Eventually(e.t, func() bool {
		e.publish(e.a, "t", short, message("short", "2"))
		stats, err := e.a.Stats(e.t.Context(), "", "", 0)
		at := slices.IndexFunc(stats, func(s pubsub.TopicStats) bool { return s.Topic == "t" })
		return err == nil && at >= 0 && stats[at].Groups[0].InFlight >= 3
	}, waitLong, 200*time.Millisecond)
	require.Equal(e.t, "2", string(e.next(s).Event.Data))
}

func testRetries(e *events) {
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 3, BackOff: pubsub.BackOff{time.Millisecond}}
	streams := []pubsub.Subscription{e.subscribe(e.a, opts), e.subscribe(e.b, opts)}
	e.publish(e.a, "t", byID, message("poison", "p"))
	counts := make(chan int, 10)
	for _, s := range streams {
		go func() {
			for {
				d, err := s.Next(e.t.Context())
				if err != nil {
					return
				}
				counts <- d.Count
				if d.Event.ID == "poison" {
					d.Nack("no " + strconv.Itoa(d.Count))
				} else {
					d.Ack()
				}
			}
		}()
	}
	letters := e.deadLetters(e.b, 1)
	for want := 1; want <= 3; want++ {
		require.Equal(e.t, want, <-counts)
	}
	d := letters[0]
	require.Equal(e.t, pubsub.ReasonMaxDeliver, d.Reason)
	require.Equal(e.t, 3, d.History.Deliveries)
	require.Equal(e.t, []string{"no 1", "no 2", "no 3"}, []string{d.History.Attempts[0].Error, d.History.Attempts[1].Error, d.History.Attempts[2].Error})
	require.Equal(e.t, "p", string(d.Event.Data))

	// Whoever redrives it, it moves once.
	var redriving sync.WaitGroup
	moved := make(chan int, 8)
	for i := range 8 {
		redriving.Go(func() {
			list, err := []*natsbroker.Broker{e.a, e.b}[i%2].Redrive(e.t.Context(), []uint64{d.ID})
			if err != nil {
				e.t.Error(err)
			}
			moved <- len(list)
		})
	}
	redriving.Wait()
	total := 0
	for range 8 {
		total += <-moved
	}
	require.Equal(e.t, 1, total)
	again := e.deadLetters(e.a, 1)
	for again[0].ID == d.ID {
		again = e.deadLetters(e.a, 1)
	}
	require.Equal(e.t, 1, again[0].History.Redriven)
	require.Equal(e.t, 3, again[0].History.Deliveries)
	n, err := e.b.Purge(e.t.Context(), []uint64{again[0].ID, again[0].ID, 1 << 40})
	require.NoError(e.t, err)
	require.Equal(e.t, 1, n)
	_, err = e.a.DeadLetter(e.t.Context(), again[0].ID)
	require.ErrorIs(e.t, err, pubsub.ErrNotFound)
	require.Empty(e.t, e.deadLetters(e.a, 0))
}

func testOrdered(e *events) {
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 5, Ordered: true}
	for i := range 20 {
		e.publish(e.a, "t", byID, message(strconv.Itoa(i), strconv.Itoa(i)))
	}
	got := make(chan string, 100)
	for _, b := range []*natsbroker.Broker{e.a, e.b} {
		s := e.subscribe(b, opts)
		go func() {
			for {
				d, err := s.Next(e.t.Context())
				if err != nil {
					return
				}
				if d.Count < 2 {
					d.Nack("not yet")
					continue
				}
				got <- string(d.Event.Data)
				d.Ack()
			}
		}()
	}
	for i := range 20 {
		require.Equal(e.t, strconv.Itoa(i), <-got)
	}
	_, err := e.a.Subscribe(e.t.Context(), pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	require.ErrorContains(e.t, err, "ordered")
}

func testPartitionKeys(e *events) {
	const keys, each = 5, 6
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 5, BackOff: pubsub.BackOff{50 * time.Millisecond}}
	got := make(chan pubsub.Event, 100)
	for _, b := range []*natsbroker.Broker{e.a, e.b} {
		s := e.subscribe(b, opts)
		go func() {
			for {
				d, err := s.Next(e.t.Context())
				if err != nil {
					return
				}
				if d.Count == 1 && d.Event.Sequence%3 == 0 {
					d.Nack("once")
					continue
				}
				got <- d.Event
				d.Ack()
			}
		}()
	}
	for i := range each {
		for k := range keys {
			m := message(fmt.Sprintf("%d-%d", k, i), strconv.Itoa(i))
			m.PartitionKey = "key" + strconv.Itoa(k)
			e.publish(e.b, "t", byID, m)
		}
	}
	next := map[string]int{}
	for range keys * each {
		event := <-got
		require.Equal(e.t, strconv.Itoa(next[event.PartitionKey]), string(event.Data), "key %s", event.PartitionKey)
		next[event.PartitionKey]++
	}
}

func testWildcards(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "orders.*.>", Group: "g"})
	e.publish(e.b, "orders.eu.new and strange >", byID, message("1", "x"))
	e.publish(e.b, "orders", byID, message("2", "x"))
	e.publish(e.b, "orders.us.a.b", byID, message("3", "x"))
	seen := map[string]string{}
	for range 2 {
		d := e.next(s)
		seen[d.Event.ID] = d.Event.Topic
		d.Ack()
	}
	require.Equal(e.t, map[string]string{"1": "orders.eu.new and strange >", "3": "orders.us.a.b"}, seen)
	require.ErrorContains(e.t, e.a.RemoveGroup(e.t.Context(), "orders.us.a.b", "g"), "pattern")
}

func testDelays(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	late := message("late", "late")
	at := time.Now().Add(2 * time.Second)
	late.DeliverAt = at
	late.Metadata = map[string]string{"who": "me\nand you"}
	e.publish(e.b, "t", byID, late)
	e.publish(e.b, "t", byID, late)
	e.publish(e.b, "t", byID, message("now", "now"))
	d := e.next(s)
	if d.Event.ID == "now" {
		d = e.next(s)
	} else { // it was published as late as that
		require.Equal(e.t, "now", e.next(s).Event.ID)
	}
	require.False(e.t, time.Now().Before(at))
	require.Equal(e.t, "late", d.Event.ID)
	require.Equal(e.t, "late", string(d.Event.Data))
	require.Equal(e.t, late.Metadata, d.Event.Metadata)
}

func testExpiry(e *events) {
	brief := message("brief", "x")
	brief.TTL = time.Millisecond
	e.publish(e.a, "t", byID, brief, message("lasting", "x"))
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "drops"})
	require.Equal(e.t, "lasting", e.next(s).Event.ID)
	keeps := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "keeps", DeadLetterExpired: true})
	require.Equal(e.t, "lasting", e.next(keeps).Event.ID)
	require.Equal(e.t, pubsub.ReasonExpired, e.deadLetters(e.a, 1)[0].Reason)
}

// Events that are too old become dead letters of the groups that owe them, though nobody consumes.
func testAge(e *events) {
	e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"}).Close()
	opts := byID
	opts.Limits.MaxAge = time.Second
	keyed := message("keyed", "x")
	keyed.PartitionKey = "k"
	e.publish(e.a, "t", opts, message("old", "x"), keyed)
	e.publish(e.a, "nobody", opts, message("old", "x"))
	for _, d := range e.deadLetters(e.b, 2) {
		require.Equal(e.t, pubsub.ReasonMaxAge, d.Reason)
	}
	require.Eventually(e.t, func() bool { return e.stored("t") == 0 && e.stored("nobody") == 0 }, waitLong, 20*time.Millisecond)
}

func (e *events) stored(topic string) uint64 {
	stats, err := e.a.Stats(e.t.Context(), "", "", 0)
	require.NoError(e.t, err)
	for _, s := range stats {
		if s.Topic == topic {
			return s.Stored
		}
	}
	return 0
}

// What all groups are done with leaves the topic, while a group that is stuck keeps what it owes.
func testTrim(e *events) {
	quick := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "quick"})
	stuck := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "stuck"})
	for i := range 10 {
		e.publish(e.a, "t", byID, message(strconv.Itoa(i), "x"))
	}
	for range 10 {
		e.next(quick).Ack()
	}
	for range 4 {
		e.next(stuck).Ack()
	}
	require.Eventually(e.t, func() bool { return e.stored("t") == 6 }, waitLong, 20*time.Millisecond)
	for i := 4; i < 10; i++ {
		d := e.next(stuck)
		require.Equal(e.t, strconv.Itoa(i), d.Event.ID)
		d.Ack()
	}
	require.Eventually(e.t, func() bool { return e.stored("t") == 0 }, waitLong, 20*time.Millisecond)
}

func testAckWait(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", AckWait: 300 * time.Millisecond})
	e.publish(e.a, "t", byID, message("slow", "x"))
	d := e.next(s)
	<-d.Context().Done()
	require.False(e.t, s.Nack(d.Number, "too late"))
	for count := 2; ; count++ {
		again := e.next(s)
		require.Equal(e.t, count, again.Count)
		if s.Ack(again.Number) {
			break // in time, which a busy machine may not be at once
		}
	}
}

// Whoever has the event by then, or nobody: it was handled.
func testAckAfterAckWait(e *events) {
	late := func(id string, backOff time.Duration) (s pubsub.Subscription, d *pubsub.Delivery) {
		s = e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", AckWait: 300 * time.Millisecond, BackOff: pubsub.BackOff{backOff}})
		e.publish(e.a, "t", byID, message(id, "x"))
		return s, e.next(s)
	}
	acknowledged := func(s pubsub.Subscription, d *pubsub.Delivery) {
		<-d.Context().Done()
		require.True(e.t, s.Ack(d.Number))
		require.Eventually(e.t, func() bool { return e.stored("t") == 0 }, waitLong, 20*time.Millisecond)
		require.False(e.t, s.Ack(d.Number))
		s.Close()
	}
	acknowledged(late("waits", time.Hour))

	goesOn, d := late("goes on", 0)
	goesOn.Pause()
	other := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	again := e.next(other)
	require.Equal(e.t, "goes on", again.Event.ID)
	acknowledged(goesOn, d)
	again.Nack("no")
	e.publish(e.a, "t", byID, message("next", "x"))
	require.Equal(e.t, "next", e.next(other).Event.ID)
	retries, _, err := e.a.Retries(e.t.Context(), "t", pubsub.RetryPlace{}, 10)
	require.NoError(e.t, err)
	require.Empty(e.t, retries)
}

func testPause(e *events) {
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	s.Pause()
	e.publish(e.a, "t", byID, message("1", "x"))
	// What is held up here goes to the other process.
	other := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.next(other).Ack()
	require.Zero(e.t, s.InFlight())
	other.Close()
	s.Resume()
	e.publish(e.a, "t", byID, message("2", "x"))
	require.Equal(e.t, "2", e.next(s).Event.ID)
}

func testGroups(e *events) {
	e.publish(e.a, "t", byID, message("before", "x"))
	all := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "all"})
	late := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "late", DeliverPolicy: pubsub.DeliverNew})
	e.publish(e.b, "t", byID, message("after", "x"))
	before := e.next(all)
	require.Equal(e.t, "before", before.Event.ID)
	require.Equal(e.t, "after", e.next(all).Event.ID)
	trace, err := e.a.Trace(e.t.Context(), "t", before.Event.Sequence)
	require.NoError(e.t, err)
	states := map[string]pubsub.EventState{}
	for _, g := range trace.Groups {
		states[g.Group] = g.State
	}
	require.Equal(e.t, map[string]pubsub.EventState{"all": pubsub.EventInFlight, "late": pubsub.EventNotOwed}, states)
	d := e.next(late)
	require.Equal(e.t, "after", d.Event.ID)
	d.Bury(pubsub.ReasonTooLarge, "never")
	e.deadLetters(e.a, 1)
	late.Close()
	require.Eventually(e.t, func() bool { return e.a.RemoveGroup(e.t.Context(), "t", "late") == nil }, waitLong, 100*time.Millisecond)
	e.deadLetters(e.a, 0)
	require.ErrorIs(e.t, e.a.RemoveGroup(e.t.Context(), "t", "late"), pubsub.ErrNotFound)
}

// Two processes of a group share its events, and what one has not acknowledged when it stops comes to the other at once.
func testProcessesShare(e *events) {
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 5}
	first := e.subscribe(e.a, opts)
	for i := range 5 {
		e.publish(e.a, "t", byID, message(strconv.Itoa(i), "x"))
	}
	for range 5 {
		e.next(first)
	}
	second := e.subscribe(e.b, opts)
	first.Close()
	for range 5 {
		d := e.next(second)
		require.Equal(e.t, 1, d.Count)
		d.Ack()
	}
}

// The processes of a new installation start at the same time, and all of them want to make the stream.
func testOpenTogether(e *events) {
	for i := range 5 {
		opts := e.opts
		opts.Bucket += strconv.Itoa(i)
		var opening sync.WaitGroup
		var errs [4]error
		for i := range errs {
			opening.Go(func() {
				b, err := natsbroker.Open(e.t.Context(), opts)
				if err == nil {
					err = b.Close(e.t.Context())
				}
				errs[i] = err
			})
		}
		opening.Wait()
		require.NoError(e.t, errors.Join(errs[:]...))
	}
}

// A bucket that is full refuses publishes, takes duplicates of what it has, delivers, and takes publishes again once it has room.
func testFull(e *events) {
	limited := byID
	limited.Limits.MaxBytes = 256 << 10
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 2, BackOff: pubsub.BackOff{time.Millisecond}})
	taken := 0
	publish := func(topic string, id int) error {
		return e.b.Publish(e.t.Context(), topic, []pubsub.Message{message(strconv.Itoa(id), strings.Repeat("x", 32<<10))}, limited)[0]
	}
	for ; taken < 20 && publish("t", taken) == nil; taken++ {
	}
	require.Equal(e.t, 7, taken, "an eighth does not fit beside what a bucket holds for itself")
	err := publish("t", taken)
	require.ErrorIs(e.t, err, pubsub.ErrTopicFull)
	require.ErrorContains(e.t, err, "maxBytes is 262144")
	require.ErrorIs(e.t, publish("other", 0), pubsub.ErrTopicFull)
	require.NoError(e.t, publish("t", 0), "a duplicate takes no room")
	e.next(s).Nack("first")
	for range taken {
		e.next(s).Ack()
	}
	require.Eventually(e.t, func() bool { return publish("t", taken) == nil }, waitLong, waitStep)
	require.Equal(e.t, strconv.Itoa(taken), e.next(s).Event.ID)
}
