package cluster_test

import (
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

// nats-servers are stopped and started one after the other, as for an upgrade, while two processes publish and consume: each event
// is stored and delivered once, and what waited before can be gone on with. Where harness.NATSVariable names an older server, they
// are upgraded from that one to the pinned one.
func TestServersAreUpgraded(t *testing.T) {
	t.Parallel()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	pinned, err := checkout.PinnedNATSServer(t.Context())
	require.NoError(t, err)
	installed, err := harness.NATSProgram()
	require.NoError(t, err)
	h := harness.ForTest(t)
	program := h.Dir("nats-server")
	require.NoError(t, os.Symlink(installed, program))
	servers, err := h.StartNATS(t.Context(), harness.ClusterOptions{Path: program})
	require.NoError(t, err)
	e := &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	e.a, e.b = openBroker(t, e.opts), openBroker(t, e.opts)
	byID := pubsub.PublishOptions{DedupWindow: time.Hour}

	dead := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "dead", Group: "g"})
	e.publish(e.a, "dead", byID, message("dead", "x"))
	e.next(dead).Bury(pubsub.ReasonTooLarge, "never")
	e.deadLetters(e.b, 1)
	retried := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "retried", Group: "g", Ordered: true, BackOff: pubsub.BackOff{time.Hour}})
	e.publish(e.a, "retried", byID, message("1", "x"), message("2", "x"))
	waits := e.next(retried)
	waits.Nack("later")

	var mu sync.Mutex
	published, delivered := 0, map[string]int{}
	for _, b := range []*natsbroker.Broker{e.a, e.b} {
		s := e.subscribe(b, pubsub.SubscribeOptions{Topic: "live", Group: "g"})
		go func() {
			for {
				d, err := s.Next(t.Context())
				if err != nil {
					return
				}
				mu.Lock()
				delivered[d.Event.ID]++
				mu.Unlock()
				d.Ack()
			}
		}()
	}
	counts := func() (p, d int) {
		mu.Lock()
		defer mu.Unlock()
		return published, len(delivered)
	}
	var publishing sync.WaitGroup
	stop := make(chan struct{})
	publishing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for _, b := range []*natsbroker.Broker{e.a, e.b} { // the second one publishes a duplicate
				if err := b.Publish(t.Context(), "live", []pubsub.Message{message(fmt.Sprint(i), "x")}, byID)[0]; err != nil {
					t.Errorf("publish %d: %v", i, err)
					return
				}
			}
			mu.Lock()
			published++
			mu.Unlock()
		}
	})
	goesOn := func() {
		before, _ := counts()
		require.Eventually(t, func() bool { _, d := counts(); return t.Failed() || d > before }, waitLong, waitStep)
	}
	goesOn()
	require.NoError(t, os.Remove(program))
	require.NoError(t, os.Symlink(pinned, program))
	for _, m := range servers.Servers {
		require.NoError(t, m.Stop())
		require.NoError(t, m.Start())
		require.NoError(t, servers.WaitReady(t.Context()))
		goesOn()
	}
	close(stop)
	publishing.Wait()

	require.Eventually(t, func() bool { return e.stored("live") == 0 }, waitLong, waitStep, "what was delivered is not removed")
	mu.Lock()
	times := maps.Clone(delivered)
	mu.Unlock()
	require.Len(t, times, published)
	for id, n := range times {
		require.Equal(t, 1, n, "event %s", id)
	}
	require.NoError(t, e.b.RetryNow(t.Context(), "retried", "g", waits.Event.Sequence))
	for _, want := range []string{"1", "2"} {
		d := e.next(retried)
		require.Equal(t, want, d.Event.ID)
		d.Ack()
	}
	_, err = e.b.Redrive(t.Context(), []uint64{e.deadLetters(e.b, 1)[0].ID})
	require.NoError(t, err)
	d := e.next(dead)
	require.Equal(t, "dead", d.Event.ID)
	d.Ack()
}
