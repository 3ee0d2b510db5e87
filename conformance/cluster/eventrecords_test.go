package cluster_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// oneServer is two processes' brokers on one nats-server, which is quick to start.
func oneServer(t *testing.T) *events {
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.a, e.b = openBroker(t, e.opts), openBroker(t, e.opts)
	return e
}

// stream is the bucket's, as an operator has it.
func (e *events) stream() jetstream.Stream {
	nc, err := nats.Connect(e.opts.URL)
	require.NoError(e.t, err)
	e.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(e.t, err)
	stream, err := js.Stream(e.t.Context(), e.opts.Prefix+"="+e.opts.Bucket)
	require.NoError(e.t, err)
	return stream
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
	stream := e.stream()
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
