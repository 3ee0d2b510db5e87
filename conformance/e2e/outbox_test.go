package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const outboxTopic = "orders"

// ackWait is how long the runtime gets for an event of its outbox: longer than the eleven seconds for which it looks for
// the transaction.
const ackWait = "12s"

// outboxSidecar starts one whose transactions on the store are told of in outboxTopic.
//
// The runtime (pkg/runtime/pubsub/outbox.go) publishes each set of a transaction to a topic of its own, adds a marker to
// the transaction, and takes the transaction. Its subscription to that topic looks for the marker, publishes the event,
// and deletes the marker. An event whose marker does not come within eleven seconds should be refused then; instead, the
// runtime (1.18.2, whatever the components) goes on looking, without a pause and for ever, and handles no other event of
// that topic: the zero value of backoff.ExponentialBackOff.Stop is not backoff.Stop. So the event leaves when its ackWait
// has run out, to the dead letters, and the sidecar must be started afresh.
func (e *env) outboxSidecar(opts harness.DaprdOptions) *harness.Daprd {
	e.t.Helper()
	opts.Args = append(opts.Args, "--dapr-graceful-shutdown-seconds", "1")
	return e.daprd(opts,
		storeComponent("outboxPublishPubsub", pubsubName, "outboxPublishTopic", outboxTopic),
		pubsubComponent("maxDeliver", "1", "ackWait", ackWait))
}

// order is what a transaction writes: two keys, of which the first is told of with what the other is.
func order(key string, etag string) []*dapr.StateOperation {
	item := &dapr.SetStateItem{Key: key, Value: []byte(key)}
	if etag != "" {
		item.Etag, item.Options = &dapr.ETag{Value: etag}, &dapr.StateOptions{Concurrency: dapr.StateConcurrencyFirstWrite}
	}
	return []*dapr.StateOperation{{Type: dapr.StateOperationTypeUpsert, Item: item}}
}

// told counts the events that told of each order. A kill between an event's delivery and its ack brings the same one again.
func told(s *app) map[string]int {
	counts, seen := make(map[string]int), make(map[string]bool)
	for _, d := range s.received() {
		if seen[d.ID] {
			continue
		}
		seen[d.ID] = true
		var key string
		if json.Unmarshal(d.Data, &key) != nil {
			key = string(d.Data)
		}
		counts[key]++
	}
	return counts
}

// internal are the dead letters of the runtime's own topic, which are to be the only ones.
func (e *env) internal() (int, error) {
	letters, err := e.bolt.DeadLetters(e.t.Context())
	for _, letter := range letters {
		if !strings.HasSuffix(letter.Topic, outboxTopic+"outbox") {
			err = errors.Join(err, fmt.Errorf("a dead letter of %s: %s", letter.Topic, letter.LastError))
		}
	}
	return len(letters), err
}

// stuck waits until an event of the runtime's topic has become a dead letter, beyond the first n, and starts the sidecar
// afresh, which has stopped handling events by then.
func (e *env) stuck(n int, d *harness.Daprd) {
	e.t.Helper()
	e.eventually(func(c *assert.CollectT) {
		letters, err := e.internal()
		require.NoError(c, err)
		require.Greater(c, letters, n)
	})
	e.again(d)
}

func (e *env) again(d *harness.Daprd) {
	e.t.Helper()
	d.Kill()
	require.NoError(e.t, d.Start())
	e.ready(d)
}

// afresh calls done until it says so, and starts the sidecar afresh whenever it has stopped handling events.
func (e *env) afresh(d *harness.Daprd, done func() error) {
	e.t.Helper()
	letters, err := e.internal()
	require.NoError(e.t, err)
	e.eventually(func(c *assert.CollectT) {
		n, err := e.internal()
		require.NoError(c, err)
		if n > letters {
			letters = n
			d.Kill()
			require.NoError(c, d.Start())
			require.NoError(c, d.WaitReady(e.t.Context()))
		}
		require.NoError(c, done())
	})
}

func TestTheOutboxTellsOfTransactionsThatTookPlace(t *testing.T) {
	t.Parallel()
	const orders = 3
	e := newEnv(t)
	s := e.app(nil, subscribe(outboxTopic))
	d := e.outboxSidecar(harness.DaprdOptions{AppPort: s.port})
	e.ready(d)
	client := e.sdk(d)
	transact := func(metadata map[string]string, operations ...*dapr.StateOperation) error {
		return client.ExecuteStateTransaction(t.Context(), storeName, metadata, operations)
	}
	once := map[string]string{"idempotencyKey": "once"}

	want := make(map[string]int)
	for i := range orders {
		key := fmt.Sprintf("order-%d", i)
		require.NoError(t, transact(nil, order(key, "")...))
		want[key] = 1
	}
	require.NoError(t, transact(once, order("once", "")...))
	want["once"] = 1
	e.eventually(func(c *assert.CollectT) { require.Equal(c, want, told(s)) })
	e.settled()
	letters, err := e.internal()
	require.NoError(t, err)
	require.Zero(t, letters)

	require.ErrorContains(t, transact(nil, order("order-0", "wrong")...), "wrong")
	e.stuck(0, d)
	// A call whose idempotency key was used succeeds and changes nothing, and so is nothing to tell of.
	client = e.sdk(d)
	require.NoError(t, transact(once, order("once", "")...))
	e.stuck(1, d)
	client = e.sdk(d)
	require.NoError(t, transact(nil, order("last", "")...))
	want["last"] = 1
	e.eventually(func(c *assert.CollectT) { require.Equal(c, 1, told(s)["last"]) })
	e.settled()
	require.Equal(t, want, told(s))
	require.Len(t, s.received(), len(want), "deliveries, of which no kill cut any off")
	letters, err = e.internal()
	require.NoError(t, err)
	require.Equal(t, 2, letters, "what did not take place is among the dead letters of the runtime's topic")
}

// The event goes out if and only if the transaction took place, also when dapr-bolt and the sidecar are killed while
// transactions and events are under way.
func TestTheOutboxUnderKills(t *testing.T) {
	t.Parallel()
	const kills, perLife, together = 4, 2, 2
	e := newEnv(t)
	s := e.app(nil, subscribe(outboxTopic))
	port, err := e.FreePort()
	require.NoError(t, err)
	// The runtime subscribes to its own topic only when it starts: hot reload does not bring that back.
	e.bolt.Kill()
	e.bolt, err = e.StartBolt(t.Context(), harness.BoltOptions{
		Path: e.programs.Bolt, Name: "dapr-bolt-restarting", DataDir: e.bolt.DataDir,
		Args: []string{"--restart-sidecar", fmt.Sprintf("http://127.0.0.1:%d", port)},
	})
	require.NoError(t, err)
	d := e.outboxSidecar(harness.DaprdOptions{AppPort: s.port, HTTPPort: port})
	e.ready(d)
	client := e.sdk(d)

	var mu sync.Mutex
	var tried []string
	acked, refused := make(map[string]bool), make(map[string]bool)
	try := func(ctx context.Context, client dapr.Client) {
		mu.Lock()
		key := fmt.Sprintf("order-%d", len(tried))
		tried = append(tried, key)
		operations := order(key, "")
		if len(tried) == 2*perLife {
			operations = append(operations, &dapr.StateOperation{Type: dapr.StateOperationTypeDelete, Item: &dapr.SetStateItem{
				Key: "never there", Etag: &dapr.ETag{Value: "wrong"}, Options: &dapr.StateOptions{Concurrency: dapr.StateConcurrencyFirstWrite},
			}})
			refused[key] = true
		}
		mu.Unlock()
		err := client.ExecuteStateTransaction(ctx, storeName, nil, operations)
		mu.Lock()
		defer mu.Unlock()
		acked[key] = err == nil
	}
	for life := range kills {
		// Some are told of by the time of the kill, some are not, and some are under way.
		seen := len(s.received())
		for range perLife {
			try(t.Context(), client)
		}
		if life%3 != 0 {
			e.afresh(d, func() error {
				if len(s.received()) > seen {
					return nil
				}
				return errors.New("nothing new was told of")
			})
			client = e.sdk(d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var underWay sync.WaitGroup
		for range together {
			underWay.Go(func() { try(ctx, client) })
		}
		pause(ctx, rand.N(10*time.Millisecond)) // not always at the same point
		if life%2 == 0 {
			d.Kill()
			underWay.Wait()
			require.NoError(t, d.Start())
		} else {
			e.bolt.Kill()
			underWay.Wait()
			require.NoError(t, e.bolt.Restart(t.Context()))
			<-d.Done() // dapr-bolt asked it to
			require.NoError(t, d.Start())
		}
		cancel()
		e.ready(d)
		client = e.sdk(d)
	}

	committed := make(map[string]int)
	for _, key := range tried {
		item, err := client.GetState(t.Context(), storeName, key, nil)
		require.NoError(t, err)
		if len(item.Value) > 0 {
			committed[key] = 1
		}
		require.False(t, acked[key] && committed[key] == 0, "%s was acknowledged and is not there", key)
		require.False(t, refused[key] && committed[key] == 1, "%s was refused and is there", key)
	}
	require.NotEmpty(t, refused)
	// A sidecar that is killed twice over one event may have been killed by it: that event waits for a person.
	for interrupted := true; interrupted; {
		e.afresh(d, e.owes)
		var sentBack admin.RedriveResult
		require.NoError(t, e.bolt.Command(t.Context(), &sentBack, "dead-letters", "redrive", "--all", "--reason", string(pubsub.ReasonInterrupted)))
		interrupted = len(sentBack.Redriven) > 0
	}
	require.Equal(t, committed, told(s), "what was told of, and by how many events; acknowledged: %v", acked)
	require.EqualValues(t, len(committed), e.topic(outboxTopic).LastSequence, "events stored: one that Dapr publishes again is a duplicate")
	letters, err := e.internal()
	require.NoError(t, err)
	fmt.Printf("%d kills: of %d transactions %d took place, each was told of once; %d events of the runtime's topic are dead letters\n",
		kills, len(tried), len(committed), letters)
}
