package pubsub_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a broker on a file, with a clock that the test moves.
type bench struct {
	t      *testing.T
	path   string
	clock  *clockwork.FakeClock
	db     *boltdb.DB
	broker *pubsub.Broker
	// opts are the broker's, but for its clock and log.
	opts pubsub.Options
	// wrap changes the engine that the broker gets; nil: it does not.
	wrap func(pubsub.Engine) pubsub.Engine
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "test.db"), clock: clockwork.NewFakeClockAt(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	var err error
	b.db, err = boltdb.Open(context.Background(), b.path, boltdb.Options{DeferredDelay: -1})
	require.NoError(b.t, err)
	var engine pubsub.Engine
	engine, err = boltengine.New(context.Background(), b.db, "pubsub")
	require.NoError(b.t, err)
	if b.wrap != nil {
		engine = b.wrap(engine)
	}
	b.opts.Clock, b.opts.Logger = b.clock, slog.New(slog.DiscardHandler)
	b.broker, err = pubsub.NewBroker(context.Background(), engine, b.opts)
	require.NoError(b.t, err)
}

func (b *bench) close() {
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	require.NoError(b.t, b.broker.Close(ctx))
	require.NoError(b.t, b.db.Close())
}

func (b *bench) reopen() { b.close(); b.open() }

// waitLong is how long a test waits for what must come before it gives up.
const waitLong = 5 * time.Minute

var byID = pubsub.PublishOptions{DedupWindow: 10 * time.Minute}

func message(data string) pubsub.Message { return pubsub.Message{Data: []byte(data)} }

func named(id, data string) pubsub.Message {
	return pubsub.Message{Data: []byte(data), EventID: id}
}

func (b *bench) publish(topic string, messages ...pubsub.Message) {
	b.t.Helper()
	for _, err := range b.broker.Publish(context.Background(), topic, messages, byID) {
		require.NoError(b.t, err)
	}
}

func (b *bench) subscribe(o pubsub.SubscribeOptions) pubsub.Subscription {
	b.t.Helper()
	if o.MaxAckPending == 0 {
		o.MaxAckPending = 64
	}
	s, err := b.broker.Subscribe(context.Background(), o)
	require.NoError(b.t, err)
	return s
}

func (b *bench) next(s pubsub.Subscription) *pubsub.Delivery {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	d, err := s.Next(ctx)
	require.NoError(b.t, err)
	return d
}

// expect takes deliveries and acks them; they must hold exactly data, in that order.
func (b *bench) expect(s pubsub.Subscription, data ...string) {
	b.t.Helper()
	for _, want := range data {
		d := b.next(s)
		require.Equal(b.t, want, string(d.Event.Data))
		d.Ack()
	}
}

// expectNothing proves that no delivery is on its way: a marker published now arrives as the next one.
func (b *bench) expectNothing(s pubsub.Subscription, topic string) {
	b.t.Helper()
	marker := fmt.Sprintf("marker %d", time.Now().UnixNano())
	b.publish(topic, message(marker))
	b.expect(s, marker)
}

// advance moves the clock, once whoever waits for it has set a timer.
func (b *bench) advance(d time.Duration, waiters int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	defer cancel()
	require.NoError(b.t, b.clock.BlockUntilContext(ctx, waiters), "waiting for %d timers", waiters)
	b.clock.Advance(d)
}

func (b *bench) stats(topic string) pubsub.TopicStats {
	b.t.Helper()
	all, err := b.broker.Stats(context.Background(), "", "", 0)
	require.NoError(b.t, err)
	for _, s := range all {
		if s.Topic == topic {
			return s
		}
	}
	return pubsub.TopicStats{}
}

func (b *bench) deadLetters(f pubsub.DeadLetterFilter) []pubsub.DeadLetter {
	b.t.Helper()
	dead, _, err := b.broker.DeadLetters(context.Background(), f, 0)
	require.NoError(b.t, err)
	return dead
}

func TestEveryGroupGetsEveryEventInOrder(t *testing.T) {
	b := newBench(t)
	b.publish("orders", message("1"), message("2"))
	billing := b.subscribe(pubsub.SubscribeOptions{Group: "billing", Topic: "orders"})
	b.publish("orders", message("3"))
	shipping := b.subscribe(pubsub.SubscribeOptions{Group: "shipping", Topic: "orders"})
	b.expect(billing, "1", "2", "3")
	b.expect(shipping, "1", "2", "3")
}

func TestStreamsOfAGroupShareItsEvents(t *testing.T) {
	b := newBench(t)
	one := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxAckPending: 1})
	two := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", MaxAckPending: 1})
	b.publish("t", message("a"), message("b"), message("c"))
	first, second := b.next(one), b.next(two)
	require.ElementsMatch(t, []string{"a", "b"}, []string{string(first.Event.Data), string(second.Event.Data)})
	// A stuck stream does not hold the other back.
	second.Ack()
	b.expect(two, "c")
	first.Ack()
}

func TestAckedEventsLeaveAndStayGoneAfterARestart(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.publish("t", message("1"), message("2"), message("3"))
	one, two, three := b.next(s), b.next(s), b.next(s)
	one.Ack()
	three.Ack()
	_ = two
	b.reopen()
	s = b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	d := b.next(s)
	require.Equal(t, "2", string(d.Event.Data))
	require.Equal(t, 1, d.Count, "a stream that ended is not a failed delivery")
	d.Ack()
	b.expectNothing(s, "t")
	require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
}

func TestAClosedStreamPutsBackWhatItHad(t *testing.T) {
	b := newBench(t)
	one := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.publish("t", message("1"), message("2"))
	d := b.next(one)
	b.next(one)
	two := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	one.Close()
	<-d.Context().Done()
	again := b.next(two)
	require.Equal(t, "1", string(again.Event.Data))
	require.Equal(t, 1, again.Count)
	again.Ack()
	b.expect(two, "2")
	d.Ack() // of a delivery that has ended: changes nothing
	_, err := one.Next(context.Background())
	require.ErrorIs(t, err, pubsub.ErrClosed)
}

func TestDelayedEventsComeWhenTheyAreDue(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	at := b.clock.Now().Add(time.Hour)
	b.publish("t", pubsub.Message{Data: []byte("later"), DeliverAt: at}, message("now"))
	b.expect(s, "now")
	b.reopen()
	s = b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.advance(time.Hour-time.Nanosecond, 1)
	b.expectNothing(s, "t")
	b.advance(time.Nanosecond, 1)
	b.expect(s, "later")
}

func TestTimeToLive(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("deadLetterExpired ", keep), func(t *testing.T) {
			b := newBench(t)
			b.publish("t", pubsub.Message{Data: []byte("short"), TTL: time.Minute}, message("long"))
			b.clock.Advance(time.Minute)
			s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", DeadLetterExpired: keep})
			b.expect(s, "long")
			b.expectNothing(s, "t")
			require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
			dead := b.deadLetters(pubsub.DeadLetterFilter{})
			if !keep {
				require.Empty(t, dead)
				return
			}
			require.Len(t, dead, 1)
			require.Equal(t, pubsub.ReasonExpired, dead[0].Reason)
		})
	}
}

func TestMaxAgeMovesToTheDeadLettersOfThoseWhoOweIt(t *testing.T) {
	b := newBench(t)
	done := b.subscribe(pubsub.SubscribeOptions{Group: "done", Topic: "t"})
	b.subscribe(pubsub.SubscribeOptions{Group: "gone", Topic: "t"}).Close()
	opts := pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxAge: time.Hour}}
	require.NoError(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{message("old")}, opts)[0])
	b.expect(done, "old")
	require.Eventually(t, func() bool { g := b.stats("t").Groups; return g[0].Waiting == 0 || g[1].Waiting == 0 }, waitLong, time.Millisecond)
	b.advance(2*time.Hour, 1)
	require.Eventually(t, func() bool { return b.stats("t").Stored == 0 }, waitLong, time.Millisecond)
	dead := b.deadLetters(pubsub.DeadLetterFilter{})
	require.Len(t, dead, 1)
	require.Equal(t, "gone", dead[0].Group)
	require.Equal(t, pubsub.ReasonMaxAge, dead[0].Reason)
}

func TestMaxBytesRefusesUntilThereIsRoom(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	opts := pubsub.PublishOptions{Limits: pubsub.TopicLimits{MaxBytes: 3000}}
	big := strings.Repeat("x", 1000)
	publish := func(n int) []error {
		messages := make([]pubsub.Message, n)
		for i := range messages {
			messages[i] = message(big)
		}
		return b.broker.Publish(t.Context(), "t", messages, opts)
	}
	errs := publish(3)
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.ErrorIs(t, errs[2], pubsub.ErrTopicFull)
	require.ErrorContains(t, errs[2], "maxBytes is 3000")
	b.expect(s, big, big)
	require.Eventually(t, func() bool { return publish(1)[0] == nil }, waitLong, time.Millisecond)
}

// The second of two in one call is a duplicate, for which no room is needed.
func TestADuplicateInTheSameCallTakesNoRoom(t *testing.T) {
	b := newBench(t)
	opts := byID
	opts.Limits.MaxBytes = 3000
	big := strings.Repeat("x", 1000)
	messages := []pubsub.Message{named("a", big), named("a", big), named("b", big), named("b", big), named("c", big)}
	for i, err := range b.broker.Publish(t.Context(), "t", messages, opts) {
		if i < 4 {
			require.NoError(t, err, "message %d", i)
		} else {
			require.ErrorIs(t, err, pubsub.ErrTopicFull)
		}
	}
	stats := b.stats("t")
	require.EqualValues(t, 2, stats.Stored)
	require.EqualValues(t, 2, stats.Duplicates)
}

func TestWildcardsCoverTopicsThatComeUpLater(t *testing.T) {
	b := newBench(t)
	b.publish("orders.eu.new", message("1"))
	all := b.subscribe(pubsub.SubscribeOptions{Group: "all", Topic: "orders.>"})
	one := b.subscribe(pubsub.SubscribeOptions{Group: "one", Topic: "orders.*.new"})
	d := b.next(all)
	require.Equal(t, "orders.eu.new", d.Event.Topic)
	d.Ack()
	b.expect(one, "1")
	b.publish("orders.us.new", message("2"))
	b.publish("orders.us.old", message("3"))
	b.publish("other", message("4"))
	b.expect(one, "2")
	got := []string{}
	for range 2 {
		d := b.next(all)
		got = append(got, d.Event.Topic+"="+string(d.Event.Data))
		d.Ack()
	}
	require.ElementsMatch(t, []string{"orders.us.new=2", "orders.us.old=3"}, got)

	// What comes up while nobody is there is owed all the same.
	all.Close()
	one.Close()
	greedy := b.subscribe(pubsub.SubscribeOptions{Group: "greedy", Topic: "orders.asia.new"})
	b.publish("orders.asia.new", message("5"))
	b.expect(greedy, "5")
	b.reopen()
	b.expect(b.subscribe(pubsub.SubscribeOptions{Group: "all", Topic: "orders.>"}), "5")
	b.expect(b.subscribe(pubsub.SubscribeOptions{Group: "one", Topic: "orders.*.new"}), "5")
}

func TestDeliverPolicyNewSkipsWhatIsThere(t *testing.T) {
	b := newBench(t)
	b.publish("t", message("old"))
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t", DeliverPolicy: pubsub.DeliverNew})
	b.publish("t", message("new"))
	b.expect(s, "new")
}

func TestPauseStopsNewDeliveriesUntilResume(t *testing.T) {
	b := newBench(t)
	paused := b.subscribe(pubsub.SubscribeOptions{Group: "paused", Topic: "t"})
	running := b.subscribe(pubsub.SubscribeOptions{Group: "running", Topic: "t"})
	paused.Pause()
	b.publish("t", message("1"))
	b.expect(running, "1")
	require.Zero(t, paused.InFlight())
	paused.Resume()
	b.expect(paused, "1")
}

func TestRemoveGroupForgetsWhatItWasOwed(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "left", Topic: "t"})
	b.publish("t", message("1"))
	err := b.broker.RemoveGroup(t.Context(), "t", "left")
	require.ErrorContains(t, err, "stop its app first")
	s.Close()
	require.NoError(t, b.broker.RemoveGroup(t.Context(), "t", "left"))
	require.ErrorIs(t, b.broker.RemoveGroup(t.Context(), "t", "left"), pubsub.ErrNotFound)
	require.Empty(t, b.stats("t").Groups)
}

func TestBadNamesAreRefused(t *testing.T) {
	b := newBench(t)
	for name, topic := range map[string]string{"empty": "", "wildcard": "a.*", "rest": ">", "control": "a\nb", "long": strings.Repeat("x", 513)} {
		t.Run(name, func(t *testing.T) {
			err := b.broker.Publish(t.Context(), topic, []pubsub.Message{message("x")}, byID)[0]
			var refused *invalid.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, "topic", refused.Field)
		})
	}
	_, err := b.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "a.>.b", Group: "g"})
	require.ErrorContains(t, err, "only as the last part")
	_, err = b.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "a"})
	require.ErrorContains(t, err, `invalid consumerID ""`)
}

func TestAClosedBrokerRefuses(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.broker.Close(t.Context()))
	require.ErrorIs(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{message("x")}, byID)[0], pubsub.ErrClosed)
	_, err := b.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	require.ErrorIs(t, err, pubsub.ErrClosed)
}
