package cluster_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

// oneServer is two processes' brokers on one nats-server, which is quick to start.
func oneServer(t *testing.T) *events { return oneServerAndClock(t, clockwork.NewRealClock()) }

// oneServerAndClock is oneServer where the first process goes by a clock of its own.
func oneServerAndClock(t *testing.T, clock clockwork.Clock) *events {
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	first := e.opts
	first.Clock = clock
	e.a, e.b = openBroker(t, first), openBroker(t, e.opts)
	return e
}

// stream is the bucket's, as an operator has it.
func (e *events) stream() (jetstream.Stream, jetstream.JetStream) {
	nc, err := nats.Connect(e.opts.URL)
	require.NoError(e.t, err)
	e.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(e.t, err)
	stream, err := js.Stream(e.t.Context(), e.opts.Prefix+"="+e.opts.Bucket)
	require.NoError(e.t, err)
	return stream, js
}

// listen hears what is sent to a subject.
func (e *events) listen(subject string) *nats.Subscription {
	nc, err := nats.Connect(e.opts.URL)
	require.NoError(e.t, err)
	e.t.Cleanup(nc.Close)
	heard, err := nc.SubscribeSync(subject)
	require.NoError(e.t, err)
	require.NoError(e.t, nc.Flush())
	return heard
}

// turns hears of each sweep as it begins.
func (e *events) turns() *nats.Subscription {
	return e.listen(e.opts.Prefix + "." + e.opts.Bucket + ".l")
}

// A server takes 64 KiB of headers. An event that has more to say than that is kept as any other is, from its publish, which
// shares a batch with others, to its redrive.
func TestEventsWithLargeRecords(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	const deliveries = 10
	page := "<html>" + strings.Repeat(`<p class="trace">`, 4096/17) // which JSON makes longer
	large := message("large", "data")
	large.Metadata = map[string]string{"quotes": strings.Repeat(`"`, pubsub.MaxMetadataBytes-len("quotes"))}
	large.DeliverAt = time.Now().Add(time.Second)
	s := e.subscribe(e.b, pubsub.SubscribeOptions{
		Topic: "t", Group: "g", Ordered: true, MaxDeliver: deliveries, BackOff: pubsub.BackOff{time.Millisecond},
	})
	var publishing sync.WaitGroup
	for _, m := range []pubsub.Message{large, message("small", "data"), message("another", "data")} {
		publishing.Go(func() {
			for _, err := range e.a.Publish(t.Context(), "t", []pubsub.Message{m}, byID) {
				if err != nil {
					t.Errorf("publish %s: %v", m.EventID, err)
				}
			}
		})
	}
	publishing.Wait()
	if t.Failed() {
		return
	}
	check := func(event *pubsub.Event) {
		t.Helper()
		require.Equal(t, "data", string(event.Data))
		if event.ID == large.EventID {
			require.Equal(t, large.Metadata, event.Metadata)
		}
	}
	for range 3 * deliveries {
		d := e.next(s)
		check(&d.Event)
		d.Nack(page)
	}
	letters := e.deadLetters(e.a, 3)
	for _, d := range letters {
		check(&d.Event)
		require.Len(t, d.History.Attempts, deliveries)
		require.Equal(t, page, d.LastError())
		moved, err := e.a.Redrive(t.Context(), []uint64{d.ID})
		require.NoError(t, err)
		require.Len(t, moved, 1)
		again := e.next(s)
		check(&again.Event)
		again.Ack()
	}
}

// A retry in flight counts as in flight, as it does with a file.
func TestARetryInFlightIsCountedOnce(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", Ordered: true})
	e.publish(e.a, "t", byID, message("1", "x"), message("2", "x"))
	e.next(s).Nack("no")
	require.Equal(t, 2, e.next(s).Count)
	counted := func(b *natsbroker.Broker, want ...uint64) {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			stats, err := b.TopicStats(t.Context(), "t")
			require.NoError(c, err)
			g := stats.Groups[0]
			require.Equal(c, want, []uint64{g.Waiting, g.InFlight, g.Retrying})
		}, waitLong, waitStep)
	}
	counted(e.a, 1, 1, 0)
	counted(e.b, 1, 0, 1) // which cannot tell whether it was handed over
}

// An event over which a stream ends goes to another process at once, and to nobody before its time when that happens again. It
// holds back what is behind it, is counted as delivered again, and becomes a dead letter as it does with a file.
func TestAnInterruptedEvent(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	opts := pubsub.SubscribeOptions{Topic: "t", Group: "g", Ordered: true, MaxDeliver: 3, BackOff: pubsub.BackOff{time.Hour}}
	e.publish(e.a, "t", byID, message("1", "x"), message("2", "x"))
	interrupt := func(b *natsbroker.Broker) (sequence uint64) {
		s := e.subscribe(b, opts)
		d := e.next(s)
		require.Equal(t, "1", d.Event.ID)
		require.Equal(t, 1, d.Count)
		s.Interrupt()
		return d.Event.Sequence
	}
	interrupt(e.a)
	sequence := interrupt(e.b)
	s := e.subscribe(e.b, opts)
	require.Eventually(t, func() bool {
		retries, _, err := e.b.Retries(t.Context(), "t", pubsub.RetryPlace{}, 1)
		return err == nil && len(retries) == 1 && retries[0].History.Interruptions == 2 && !retries[0].InFlight
	}, waitLong, waitStep)
	require.Zero(t, s.InFlight())
	s.Close()
	require.NoError(t, e.a.RetryNow(t.Context(), "t", "g", sequence))
	interrupt(e.a)
	require.Equal(t, pubsub.ReasonInterrupted, e.deadLetters(e.a, 1)[0].Reason)
	s = e.subscribe(e.a, opts)
	d := e.next(s)
	require.Equal(t, "2", d.Event.ID)
	d.Ack()
	for b, want := range map[*natsbroker.Broker][]uint64{e.a: {3, 1}, e.b: {1, 1}} {
		stats, err := b.TopicStats(t.Context(), "t")
		require.NoError(t, err)
		require.Equal(t, want, []uint64{stats.Groups[0].Delivered, stats.Groups[0].Redelivered})
	}
}

// A stream that an operator deletes is made anew, and all that subscribe, publish and clean up go on with it, whatever sequences
// it had.
func TestADeletedStreamIsMadeAnew(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	for i := range 20 {
		e.publish(e.b, "t", byID, message(strconv.Itoa(i), "x"))
	}
	late := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "late", DeliverPolicy: pubsub.DeliverNew})
	pattern := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "x.*", Group: "pattern"})
	e.publish(e.b, "t", byID, message("before", "x"))
	e.next(late).Ack()
	stream, js := e.stream()
	require.NoError(t, js.DeleteStream(t.Context(), stream.CachedInfo().Config.Name))
	// What is refused may be stored, and is not delivered twice.
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return e.b.Publish(ctx, "t", []pubsub.Message{message("after", "x")}, byID)[0] == nil
	}, waitLong, waitStep)
	d := e.next(late)
	require.Equal(t, "after", d.Event.ID)
	d.Ack()
	e.publish(e.b, "x.new", byID, message("of a new topic", "x"))
	e.next(pattern).Ack()
	require.Eventually(t, func() bool { return e.stored("t") == 0 && e.stored("x.new") == 0 }, waitLong, waitStep)
}

// A consumer that an operator deletes is made anew, and delivers what is kept once more. An event that is a dead letter already
// stays the one that it is, and holds up nobody.
func TestADeadLetterThatFailsAgain(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "keeps it"}).Close()
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", Ordered: true, MaxDeliver: 1})
	e.publish(e.a, "t", byID, message("poison", "x"))
	e.next(s).Nack("first")
	first := e.deadLetters(e.a, 1)
	stream, _ := e.stream()
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if strings.HasSuffix(name, "_all") {
			require.NoError(t, stream.DeleteConsumer(t.Context(), name))
		}
	}
	e.next(s).Nack("second")
	e.publish(e.a, "t", byID, message("next", "x"))
	d := e.next(s)
	require.Equal(t, "next", d.Event.ID)
	d.Ack()
	require.Equal(t, first[0].ID, e.deadLetters(e.a, 1)[0].ID)
}

// What every group is done with is removed once: a topic at rest costs the servers no more writes, sweep after sweep.
func TestATopicAtRestIsNotPurgedAgain(t *testing.T) {
	t.Parallel()
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.a = openBroker(t, e.opts)
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.publish(e.a, "t", byID, message("1", "x"))
	e.next(s).Ack()
	require.Eventually(t, func() bool { return e.stored("t") == 0 }, waitLong, waitStep)
	purges, turns := e.listen("$JS.API.STREAM.PURGE.>"), e.turns()
	// The first sweep that is seen may be the one that has just removed the event.
	for turn := range 4 {
		_, err := turns.NextMsg(waitLong)
		require.NoError(t, err)
		if n, _, err := purges.Pending(); turn > 1 {
			require.NoError(t, err)
			require.Zero(t, n)
		} else {
			for range n {
				_, err := purges.NextMsg(waitLong)
				require.NoError(t, err)
			}
		}
	}
}

// A topic that was removed and is published to again, while the app of its pattern is stopped, keeps what the app is owed. Some
// servers (2.14.0) take a removal of what is before the first sequence for one of all that there is.
func TestATopicThatBeginsAnewIsNotPurged(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	pattern := pubsub.SubscribeOptions{Topic: "x.*", Group: "g"}
	s := e.subscribe(e.a, pattern)
	e.publish(e.a, "x.t", byID, message("before", "x"))
	e.next(s).Ack()
	require.Eventually(t, func() bool { return e.stored("x.t") == 0 }, waitLong, waitStep)
	s.Close()
	purges := e.listen("$JS.API.STREAM.PURGE.>")
	require.NoError(t, e.a.RemoveTopic(t.Context(), "x.t"))
	e.publish(e.a, "x.t", byID, message("after", "x"))
	turns := e.turns()
	for range 2 {
		_, err := turns.NextMsg(waitLong)
		require.NoError(t, err)
	}
	n, _, err := purges.Pending()
	require.NoError(t, err)
	for range n {
		m, err := purges.NextMsg(waitLong)
		require.NoError(t, err)
		require.NotContains(t, string(m.Data), `"seq":1,`)
	}
	require.Equal(t, "after", e.next(e.subscribe(e.a, pattern)).Event.ID)
}

// A server gives 1024 records in one answer. A process that begins when a bucket has more topics knows them all.
func TestMoreTopicsThanOneAnswerHolds(t *testing.T) {
	t.Parallel()
	e := oneServer(t)
	const workers, each = 16, 65
	var publishing sync.WaitGroup
	for i := range workers {
		publishing.Go(func() {
			for j := range each {
				if err := e.a.Publish(t.Context(), fmt.Sprintf("t%d.%d", i, j), []pubsub.Message{message("1", "x")}, byID)[0]; err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	stats, err := openBroker(t, e.opts).Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Len(t, stats, workers*each)
}
