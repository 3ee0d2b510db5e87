package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	// eventStream is what the stream is called that holds the bucket, and eventDatabase, what the command line calls it.
	eventStream   = "dapr-bolt=dapr=pubsub"
	eventDatabase = "nats-dapr-bolt"
	// mostOwed is how many events the slowest group may owe before publishers wait for it.
	mostOwed = 300
)

// eventCluster is dapr-bolt processes with their events on nats-servers, and all who work with them.
type eventCluster struct {
	t      *testing.T
	nats   *harness.NATS
	bolts  []*harness.Bolt
	apps   []*eventApp
	ledger *eventLedger
	// failed gets what no fault explains.
	failed chan error
}

func (c *eventCluster) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// dial connects to a process as a sidecar does that has said already what its component is.
func (c *eventCluster) dial(bolt *harness.Bolt, group string) (*harness.Client, error) {
	return harness.Dial(boltSocket(bolt), "component-"+group)
}

func (c *eventCluster) init(bolt *harness.Bolt, group string, settings ...string) {
	client, err := c.dial(bolt, group)
	require.NoError(c.t, err)
	defer func() { require.NoError(c.t, client.Close()) }()
	require.NoError(c.t, client.InitPubSub(c.t.Context(), c.settings(group, settings...)...))
}

// settings are the metadata of a group's component.
func (c *eventCluster) settings(group string, more ...string) []string {
	return append(c.nats.Metadata(
		"consumerID", group, "dedupWindow", "24h", "maxDeliver", strconv.Itoa(eventDeliveries), "backOff", "5ms", "ackWait", "10m",
	), more...)
}

// publisher publishes an event at a process, or through a sidecar.
type publisher func(ctx context.Context, r *proto.PublishRequest) error

// publish publishes one event after the other, each until it is acknowledged, now here and now there, and some of them again.
func (c *eventCluster) publish(ctx context.Context, topic, key string, at []publisher) {
	for number := 1; ctx.Err() == nil; number++ {
		for c.ledger.mostOwed(topic) > mostOwed && ctx.Err() == nil {
			pause(ctx, 5*time.Millisecond)
		}
		id := fmt.Sprintf("%s-%d", key, number)
		request := &proto.PublishRequest{Topic: topic, Data: []byte(id), Metadata: map[string]string{"eventID": id}}
		if topic == keyedEvents {
			request.Metadata["partitionKey"] = key
		}
		notBefore := time.Time{}
		if topic == plainEvents && number%delayedEvery == 0 {
			notBefore = time.Now().Add(time.Second)
			request.Metadata["deliverAt"] = notBefore.UTC().Format(time.RFC3339Nano)
		}
		c.ledger.publishing(id, topic, notBefore)
		for again := rand.IntN(4) == 0; ; again = false {
			if err := at[rand.IntN(len(at))](ctx, request); err != nil {
				if code := status.Code(err); code == codes.InvalidArgument || code == codes.Unimplemented {
					c.fail(fmt.Errorf("publish %s: %w", id, err))
					return
				}
				// It may be stored. The same id is published again.
				pause(context.WithoutCancel(ctx), harness.Redial)
				again = true
			}
			if !again {
				break
			}
		}
	}
}

// consume is one app instance of a group at one process, which subscribes again whenever its stream ends.
func (c *eventCluster) consume(ctx context.Context, bolt *harness.Bolt, group string) {
	for ctx.Err() == nil {
		err := c.stream(ctx, bolt, group)
		if ctx.Err() == nil && !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
			c.fail(fmt.Errorf("consume as %s at %s: %w", group, bolt.Name(), err))
			return
		}
		pause(ctx, harness.Redial)
	}
}

func (c *eventCluster) stream(ctx context.Context, bolt *harness.Bolt, group string) error {
	client, err := c.dial(bolt, group)
	if err != nil {
		return err
	}
	defer client.Close()
	stream, err := client.Pull(ctx, eventGroups[group].topic)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		handled, err := c.deliver(group, m.GetData(), m.GetMetadata()["sequence"], m.GetMetadata()["deliveryCount"])
		if err != nil {
			return err
		}
		answer := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
		if !handled {
			answer.AckError = &proto.AckMessageError{Message: eventFailure}
		}
		// What is wrong with the stream, Recv says.
		if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

// deliver has the ledger decide whether a delivery is handled.
func (c *eventCluster) deliver(group string, id []byte, sequence, deliveryCount string) (handled bool, err error) {
	number, err1 := strconv.ParseUint(sequence, 10, 64)
	count, err2 := strconv.Atoi(deliveryCount)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	return c.ledger.deliver(group, string(id), number, count), nil
}

// tend sends dead letters back and purges others until ctx ends, each at two processes at once. It reads no further back than
// to the oldest that it has to do with: those that stay become more and more.
func (c *eventCluster) tend(ctx context.Context) {
	list := []string{"--all", "--database", eventDatabase}
	after := len(list)
	for ctx.Err() == nil {
		letters, err := c.bolts[rand.IntN(len(c.bolts))].DeadLetters(ctx, list...)
		if err != nil {
			pause(ctx, 100*time.Millisecond) // it was killed, or has no servers
			continue
		}
		stay := true
		for _, letter := range letters {
			id := letter.Event.ID
			if stay = stay && fateOf(id) == dead; stay {
				list = append(list[:after], "--after", strconv.FormatUint(letter.ID, 10))
			}
			switch fateOf(id) {
			case curable:
				c.ledger.redriving(letter.Group, id)
				c.atTwo(ctx, letter.ID, "dead-letters", "redrive")
			case purged:
				c.atTwo(ctx, letter.ID, "dead-letters", "purge", "--yes")
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// atTwo has two processes at once take a dead letter away, which only one of them can.
func (c *eventCluster) atTwo(ctx context.Context, letter uint64, command ...string) {
	var both sync.WaitGroup
	for _, at := range rand.Perm(len(c.bolts))[:2] {
		both.Go(func() {
			var result struct {
				Redriven []uint64
				Purged   int
			}
			// An error says that the other was faster, or that a fault was.
			_ = c.bolts[at].Command(ctx, &result, append(command, strconv.FormatUint(letter, 10), "--database", eventDatabase)...)
			c.ledger.taken(letter, len(result.Redriven)+result.Purged)
		})
	}
	both.Wait()
}

// leader waits until a server other than one says that it leads the stream.
func (c *eventCluster) leader(but *harness.NATSMember) (found *harness.NATSMember) {
	require.Eventually(c.t, func() bool {
		for _, m := range c.nats.Servers {
			if m != but && m.Leads(c.t.Context(), eventStream) {
				found = m
				return true
			}
		}
		return false
	}, patience, 100*time.Millisecond)
	return found
}

// goesOn waits until more events are published and handled.
func (c *eventCluster) goesOn() {
	const more = 50
	published, handled := c.ledger.counts()
	require.Eventually(c.t, func() bool {
		p, h := c.ledger.counts()
		return p >= published+more && h >= handled+more || len(c.failed) > 0
	}, patience, 10*time.Millisecond, "nothing is published or handled any more")
	c.check()
}

// eventually waits until nothing is wrong any more, and fails with what still is.
func (c *eventCluster) eventually(wrong func() string) {
	for deadline := time.Now().Add(patience); ; pause(c.t.Context(), 100*time.Millisecond) {
		what := wrong()
		if what == "" || len(c.failed) > 0 {
			return
		}
		require.True(c.t, time.Now().Before(deadline), what)
	}
}

func (c *eventCluster) check() {
	select {
	case err := <-c.failed:
		require.NoError(c.t, err)
	default:
	}
	require.Empty(c.t, c.ledger.findings())
}

// Three dapr-bolts share events on NATS, with the consumers of two of them behind sidecars, while leaders, followers, they
// themselves and the sidecars are killed, paused and cut off:
// nothing that was acknowledged is lost, each id is stored once, nothing is overtaken, and every dead letter is there once,
// and is sent back or purged once.
func TestClusterEventsOutliveWhateverFails(t *testing.T) {
	t.Parallel()
	const processes, behindSidecars, keys = 3, 2, 4
	h := harness.ForTest(t)
	network := networkOf(t, h)
	c := &eventCluster{
		t: t, nats: harness.StartNATS(t, h, harness.ClusterOptions{Network: network}), ledger: newEventLedger(), failed: make(chan error, 1),
	}
	for i := range processes {
		name := fmt.Sprintf("dapr-bolt-%d", i)
		opts := harness.BoltOptions{Name: name, DataDir: h.Dir(name), SocketDir: filepath.Join(h.SocketDir(), name)}
		if i < behindSidecars {
			opts.Args = resubscribing(h, name)
		}
		c.bolts = append(c.bolts, harness.StartBolt(t, h, opts))
	}
	var at []publisher
	for i, bolt := range c.bolts {
		c.init(bolt, publishers)
		client, err := c.dial(bolt, publishers)
		require.NoError(t, err)
		defer func() { require.NoError(t, client.Close()) }()
		at = append(at, func(ctx context.Context, r *proto.PublishRequest) error {
			_, err := client.PubSub.Publish(ctx, r)
			return err
		})
		if i < behindSidecars {
			app := c.startApp(h, bolt)
			c.apps, at = append(c.apps, app), append(at, app.publish)
			continue
		}
		for name, group := range eventGroups {
			c.init(bolt, name, group.settings...)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var consuming, publishing sync.WaitGroup
	producing, stopProducers := context.WithCancel(ctx)
	defer func() {
		stopProducers()
		stop()
		publishing.Wait()
		consuming.Wait()
	}()
	for _, bolt := range c.bolts[behindSidecars:] {
		for name := range eventGroups {
			consuming.Go(func() { c.consume(ctx, bolt, name) })
		}
	}
	consuming.Go(func() { c.tend(ctx) })
	for i := range keys {
		publishing.Go(func() { c.publish(producing, keyedEvents, fmt.Sprint("key", i), at) })
	}
	publishing.Go(func() { c.publish(producing, plainEvents, "plain", at) })
	c.goesOn()

	killBolt := func() {
		bolt := c.bolts[rand.IntN(processes)]
		bolt.Kill()
		c.goesOn()
		require.NoError(t, bolt.Restart(t.Context()))
	}
	kinds := []struct {
		name string
		do   func()
	}{
		{"the leader is killed", func() {
			leader := c.leader(nil)
			leader.Kill()
			c.leader(leader)
			require.NoError(t, leader.Start())
		}},
		{"a dapr-bolt is killed", killBolt},
		{"a sidecar is killed", func() { c.apps[rand.IntN(behindSidecars)].sidecar.killed(t, c.goesOn) }},
		{"the leader is cut off", func() { c.cutOff(network, c.leader(nil)) }},
		{"another server is killed", func() {
			leader := c.leader(nil)
			for _, m := range c.nats.Servers {
				if m != leader {
					m.Kill()
					c.goesOn()
					require.NoError(t, m.Start())
					return
				}
			}
		}},
		{"the leader is paused", func() {
			leader := c.leader(nil)
			leader.Pause()
			c.leader(leader)
			c.goesOn()
			leader.Resume()
		}},
		{"all servers are killed", func() {
			for _, m := range c.nats.Servers {
				m.Kill()
			}
			for _, m := range c.nats.Servers {
				require.NoError(t, m.Start())
			}
		}},
	}
	for given := range *faults {
		fault := kinds[given%len(kinds)]
		t.Logf("fault %d: %s", given+1, fault.name)
		fault.do()
		require.NoError(t, c.nats.WaitReady(t.Context()))
		c.goesOn()
		for _, app := range c.apps {
			app.goesOn()
		}
	}
	stopProducers()
	publishing.Wait()

	c.eventually(func() string {
		if left := c.ledger.unfinished(); len(left) > 0 {
			return fmt.Sprintf("%d are owed, %v among them", len(left), left[:min(len(left), 10)])
		}
		return ""
	})
	c.check()
	// What was sent back or purged is no dead letter any more, and each of the others is one once.
	c.eventually(func() string {
		letters, err := c.bolts[0].DeadLetters(t.Context(), "--all", "--database", eventDatabase)
		if err != nil {
			return err.Error()
		}
		return c.ledger.judge(letters)
	})
	c.check()
	fmt.Println(c.ledger)
}

// cutOff takes a server's packets, or has it paused where that cannot be done, until the others have a leader and go on.
func (c *eventCluster) cutOff(network *harness.Network, m *harness.NATSMember) {
	if network == nil {
		m.Pause()
		defer m.Resume()
	} else {
		require.NoError(c.t, m.CutOff(c.t.Context()))
		defer func() { require.NoError(c.t, m.Reconnect(c.t.Context())) }()
	}
	c.leader(m)
	c.goesOn()
}

// networkOf returns where servers can be cut off; nil: this machine has no such place, which is said.
func networkOf(t *testing.T, h *harness.Harness) *harness.Network {
	network, err := h.Network(t.Context())
	if err != nil {
		fmt.Printf("servers are paused here in place of being cut off, which takes root and network namespaces: %v\n", err)
		return nil
	}
	return network
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
