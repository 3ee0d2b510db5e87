package guarantees

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// crowd is clients that write, publish and consume until they are told to stop, whatever happens to the process.
type crowd struct {
	w      *world
	ledger *ledger
	// acked counts acknowledged calls; a kill waits for some.
	acked atomic.Int64

	running  sync.WaitGroup
	producer context.CancelFunc
	consumer context.CancelFunc
	failed   chan error
}

const (
	stateWriters = 6
	setsOfKey    = 3
	publishers   = 6
	consumers    = 2
	crowdTopic   = "crowd"
	crowdGroup   = "audit"
	bulkEvents   = 5
	retryWait    = time.Millisecond
)

func TestTenKillsLoseNothing(t *testing.T) {
	t.Parallel()
	const kills = 10
	w := newWorld(t)
	c := startCrowd(w)
	for range kills {
		// Somewhere in the middle: every client is at work again, and none at the same point as the last time.
		c.waitForAcks(100 + rand.Int64N(400))
		w.restart()
	}
	c.waitForAcks(100)
	c.stopProducers()
	w.settled()
	c.stopConsumers()

	v := c.ledger.check(c.stored())
	fmt.Printf("%d kills:\n", kills)
	v.print(os.Stdout)
	require.Empty(t, v.problems())
	require.Positive(t, v.keys)
	require.Positive(t, v.events)

	require.NoError(t, w.bolt.Stop())
	var report struct{ Sound bool }
	require.NoError(t, w.bolt.Command(t.Context(), &report, "check"))
	require.True(t, report.Sound)
}

func startCrowd(w *world) *crowd {
	w.t.Helper()
	store, topics := w.client(storeName), w.client(pubsubName)
	require.NoError(w.t, store.initState(w.t.Context()))
	require.NoError(w.t, topics.initPubSub(w.t.Context(), "consumerID", crowdGroup, "backOff", "10ms", "maxDeliver", "0"))

	c := &crowd{w: w, ledger: newLedger(), failed: make(chan error, stateWriters+publishers+consumers)}
	var producing, consuming context.Context
	producing, c.producer = context.WithCancel(w.t.Context())
	consuming, c.consumer = context.WithCancel(w.t.Context())
	w.t.Cleanup(c.running.Wait)
	w.t.Cleanup(c.producer)
	w.t.Cleanup(c.consumer)
	for i := range stateWriters {
		c.run(func() error { return c.write(producing, store, i) })
	}
	for i := range publishers {
		c.run(func() error { return c.publish(producing, topics, i) })
	}
	for range consumers {
		c.run(func() error { return c.consume(consuming, topics) })
	}
	return c
}

func (c *crowd) run(work func() error) {
	c.running.Go(func() {
		if err := work(); err != nil {
			c.failed <- err
		}
	})
}

// waitForAcks returns when n more calls were acknowledged.
func (c *crowd) waitForAcks(n int64) {
	c.w.t.Helper()
	target := c.acked.Load() + n
	require.EventuallyWithT(c.w.t, func(collect *assert.CollectT) {
		c.check()
		require.GreaterOrEqual(collect, c.acked.Load(), target, "acknowledged calls")
	}, patience, time.Millisecond)
}

// check fails the test if a client gave up.
func (c *crowd) check() {
	c.w.t.Helper()
	select {
	case err := <-c.failed:
		require.NoError(c.w.t, err)
	default:
	}
}

func (c *crowd) stopProducers() {
	c.w.t.Helper()
	c.producer()
	c.check()
}

func (c *crowd) stopConsumers() {
	c.w.t.Helper()
	c.consumer()
	c.running.Wait()
	c.check()
}

// killed says whether err is what a client sees of a process that dies, or that is not there.
func killed(err error) bool { return status.Code(err) == codes.Unavailable }

// write sets each key a few times and then leaves it alone, so that what one kill lost is not written again before
// somebody looks; every third time it is two keys in one transaction.
func (c *crowd) write(ctx context.Context, to *client, writer int) error {
	set := func(key string, value int) *proto.SetRequest {
		return &proto.SetRequest{Key: key, Value: []byte(strconv.Itoa(value))}
	}
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("writer-%d-key-%d", writer, i/setsOfKey)
		together := []string{key}
		if i/setsOfKey%3 == 0 {
			together = []string{key + "-left", key + "-right"}
		}
		value := c.ledger.trying(together...)
		var err error
		if len(together) == 1 {
			_, err = to.state.Set(context.WithoutCancel(ctx), set(together[0], value))
		} else {
			operations := make([]*proto.TransactionalStateOperation, len(together))
			for i, key := range together {
				operations[i] = &proto.TransactionalStateOperation{Request: &proto.TransactionalStateOperation_Set{Set: set(key, value)}}
			}
			_, err = to.transaction.Transact(context.WithoutCancel(ctx), &proto.TransactionalStateRequest{Operations: operations})
		}
		switch {
		case err == nil:
			c.ledger.set(value, together...)
			c.acked.Add(1)
		case killed(err):
			pause(ctx, retryWait)
		default:
			return fmt.Errorf("set %v to %d: %w", together, value, err)
		}
	}
	return nil
}

// publish sends each event until it is acknowledged, as a publisher that wants it to arrive does; one time in three,
// several in a bulk.
func (c *crowd) publish(ctx context.Context, to *client, publisher int) error {
	for i := 0; ctx.Err() == nil; i++ {
		ids := []string{fmt.Sprintf("publisher-%d-event-%d", publisher, i)}
		if i%3 == 0 {
			for j := 1; j < bulkEvents; j++ {
				ids = append(ids, fmt.Sprintf("%s-%d", ids[0], j))
			}
		}
		c.ledger.publish(false, ids...)
		for {
			err := send(context.WithoutCancel(ctx), to, ids)
			if err == nil {
				c.ledger.publish(true, ids...)
				c.acked.Add(1)
				break
			}
			if !killed(err) {
				return fmt.Errorf("publish %v: %w", ids, err)
			}
			if ctx.Err() != nil {
				return nil
			}
			pause(ctx, retryWait)
		}
	}
	return nil
}

func send(ctx context.Context, to *client, ids []string) error {
	metadata := func(id string) map[string]string { return map[string]string{"eventID": id} }
	if len(ids) == 1 {
		_, err := to.pubsub.Publish(ctx, &proto.PublishRequest{Topic: crowdTopic, Data: []byte(ids[0]), Metadata: metadata(ids[0])})
		return err
	}
	entries := make([]*proto.BulkMessageEntry, len(ids))
	for i, id := range ids {
		entries[i] = &proto.BulkMessageEntry{EntryId: id, Event: []byte(id), Metadata: metadata(id)}
	}
	answer, err := to.pubsub.BulkPublish(ctx, &proto.BulkPublishRequest{Topic: crowdTopic, Entries: entries})
	if err != nil {
		return err
	}
	if failed := answer.GetFailedEntries(); len(failed) > 0 {
		return fmt.Errorf("%d entries failed, the first with %s", len(failed), failed[0].GetError())
	}
	return nil
}

// consume acknowledges whatever comes, and subscribes again when the stream is lost.
func (c *crowd) consume(ctx context.Context, from *client) error {
	for ctx.Err() == nil {
		err := c.pull(ctx, from)
		if ctx.Err() != nil {
			return nil
		}
		if !killed(err) && err != io.EOF {
			return fmt.Errorf("consume: %w", err)
		}
		pause(ctx, retryWait)
	}
	return nil
}

func (c *crowd) pull(ctx context.Context, from *client) error {
	stream, err := from.pubsub.PullMessages(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: crowdTopic}}); err != nil && err != io.EOF {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		c.ledger.deliver(string(m.GetData()), m.GetMetadata()["sequence"])
		if err := stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}); err != nil && err != io.EOF {
			return err
		}
	}
}

// stored is what the store holds for every key of the ledger.
func (c *crowd) stored() map[string]string {
	c.w.t.Helper()
	store := c.w.client(storeName)
	var items []*proto.GetRequest
	for key := range c.ledger.values {
		items = append(items, &proto.GetRequest{Key: key})
	}
	const atOnce = 1000
	stored := make(map[string]string, len(items))
	for some := range slices.Chunk(items, atOnce) {
		answer, err := store.state.BulkGet(c.w.t.Context(), &proto.BulkGetRequest{Items: some})
		require.NoError(c.w.t, err)
		for _, item := range answer.GetItems() {
			require.Empty(c.w.t, item.GetError(), "reading %s", item.GetKey())
			stored[item.GetKey()] = string(item.GetData())
		}
	}
	return stored
}
