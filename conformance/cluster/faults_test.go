package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
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

var faults = flag.Int("faults", 5, "faults of TestEventsOutliveFaults")

// ledger is what publishers were told, and what consumers saw.
type ledger struct {
	mu sync.Mutex
	// published are the acknowledged ids; handled, how often each was acknowledged by the consumer; last is the newest
	// number of each key that was handled.
	published map[string]bool
	handled   map[string]int
	last      map[string]int
	overtaken []string
}

// handle decides on a delivery: every tenth event is poison, and of the others every fifth fails once.
func (l *ledger) handle(d *pubsub.Delivery) {
	key, text, _ := strings.Cut(d.Event.ID, "-")
	n, err := strconv.Atoi(text)
	if err != nil {
		d.Nack("no number")
		return
	}
	if n%10 == 7 && d.Count <= 2 {
		d.Nack("poison")
		return
	}
	if n%5 == 3 && d.Count == 1 {
		d.Nack("once")
		return
	}
	l.mu.Lock()
	if n < l.last[key] && n%10 != 7 {
		// A second delivery of one that was handled is allowed; a first one behind a later one is not.
		if l.handled[d.Event.ID] == 0 {
			l.overtaken = append(l.overtaken, fmt.Sprintf("%s after %d", d.Event.ID, l.last[key]))
		}
	}
	l.last[key] = max(l.last[key], n)
	l.handled[d.Event.ID]++
	l.mu.Unlock()
	d.Ack()
}

// Leaders and followers are killed and paused while two processes publish, retry and bury: nothing that was acknowledged
// is lost, no key is overtaken, and every dead letter is there once.
func TestEventsOutliveFaults(t *testing.T) {
	const keys = 4
	h := harness.ForTest(t)
	servers := harness.StartNATS(t, h, harness.ClusterOptions{})
	opts := natsbroker.Options{URL: servers.URL(), Prefix: "faults", Bucket: "b", Replicas: 3, SweepInterval: time.Second, Timeout: 30 * time.Second, MinPayload: 4 << 20}
	brokers := []*natsbroker.Broker{openBroker(t, opts), openBroker(t, opts)}
	l := &ledger{published: map[string]bool{}, handled: map[string]int{}, last: map[string]int{}}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var consuming, publishing sync.WaitGroup
	for _, b := range brokers {
		s, err := b.Subscribe(ctx, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxDeliver: 2, BackOff: pubsub.BackOff{10 * time.Millisecond}, MaxAckPending: 16, AckWait: time.Minute})
		require.NoError(t, err)
		defer s.Close()
		consuming.Go(func() {
			for {
				d, err := s.Next(ctx)
				if err != nil {
					return
				}
				l.handle(d)
			}
		})
	}
	done := make(chan struct{})
	for key := range keys {
		publishing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				m := message(fmt.Sprintf("%d-%d", key, n), "x")
				m.PartitionKey = strconv.Itoa(key)
				// A refusal leaves it open whether the event is stored, and the same id is published again.
				for {
					if err := brokers[n%2].Publish(ctx, "t", []pubsub.Message{m}, pubsub.PublishOptions{DedupWindow: time.Hour})[0]; err == nil {
						break
					}
					if ctx.Err() != nil {
						return
					}
				}
				l.mu.Lock()
				l.published[m.EventID] = true
				l.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}

	random := rand.New(rand.NewPCG(1, 2))
	for i := range *faults {
		server := servers.Servers[random.IntN(len(servers.Servers))]
		if leader, err := servers.Leader(ctx); err == nil && i%2 == 0 {
			server = leader
		}
		if i%3 == 2 {
			server.Pause()
			time.Sleep(2 * time.Second)
			server.Resume()
		} else {
			server.Kill()
			require.NoError(t, server.Start())
		}
		require.NoError(t, servers.WaitReady(ctx))
		l.progress(t)
	}
	close(done)
	publishing.Wait()

	poison := func(id string) bool { return strings.HasSuffix(id, "7") }
	var missing []string
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		missing = nil
		for id := range l.published {
			if !poison(id) && l.handled[id] == 0 {
				missing = append(missing, id)
			}
		}
		return len(missing) == 0
	}, 3*waitLong, 100*time.Millisecond, "lost: %v", missing)
	var poisoned int
	for id := range l.published {
		if poison(id) {
			poisoned++
		}
	}
	dead := map[string]int{}
	require.Eventually(t, func() bool {
		all, err := brokers[1].DeadLetters(ctx, pubsub.DeadLetterFilter{Limit: 1 << 20})
		clear(dead)
		for _, d := range all {
			dead[d.Event.ID]++
		}
		return err == nil && len(dead) == poisoned
	}, waitLong, 100*time.Millisecond)
	for id, n := range dead {
		require.Equal(t, 1, n, "dead letters of %s", id)
		require.True(t, poison(id), id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.overtaken)
	twice := 0
	for _, n := range l.handled {
		twice += n - 1
	}
	t.Logf("%d faults: %d events acknowledged, %d dead letters, %d handled again", *faults, len(l.published), len(dead), twice)
	stop()
	consuming.Wait()
}

// progress waits until events are published and handled again.
func (l *ledger) progress(t *testing.T) {
	t.Helper()
	count := func() (int, int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.published), len(l.handled)
	}
	published, handled := count()
	require.Eventually(t, func() bool {
		p, h := count()
		return p > published && h > handled
	}, waitLong, 20*time.Millisecond, "nothing is published or handled any more")
}
