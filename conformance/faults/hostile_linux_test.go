package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// usage is what a process takes of the machine.
type usage struct {
	goroutines, descriptors int
	memory                  int64 // of its own, in bytes
}

func (e *env) usage(b *harness.Bolt) (u usage) {
	e.t.Helper()
	_, metrics := e.get(b, http.MethodGet, "/metrics")
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			u.goroutines, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	require.Positive(e.t, u.goroutines)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.PID()))
	require.NoError(e.t, err)
	u.descriptors = len(fds)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID()))
	require.NoError(e.t, err)
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			require.NoError(e.t, err)
			u.memory = kib << 10
		}
	}
	return u
}

// honest makes sure that somebody else is served, in the middle of everything.
func honest(t *testing.T, c *harness.Client) {
	t.Helper()
	began := time.Now()
	value := []byte(began.String())
	require.NoError(t, c.Set(t.Context(), "honest", value))
	got, err := c.Get(t.Context(), "honest")
	require.NoError(t, err)
	require.Equal(t, value, got)
}

// back waits until the process takes no more than before, give or take what it keeps for reuse.
func (e *env) back(b *harness.Bolt, before usage, moreMemory int64) {
	e.t.Helper()
	require.EventuallyWithT(e.t, func(c *assert.CollectT) {
		now := e.usage(b)
		require.LessOrEqual(c, now.goroutines, before.goroutines+10)
		require.LessOrEqual(c, now.descriptors, before.descriptors+5)
		require.LessOrEqual(c, now.memory, before.memory+memoryFactor*moreMemory)
	}, patience, 10*poll)
}

func TestTooManyStreamsAreRefused(t *testing.T) {
	t.Parallel()
	const allowed, tried = 1000, 1300
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-streams", strconv.Itoa(allowed)}})
	store, topics := e.store(b), e.pubsub(b, "shop")
	before := e.usage(b)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var refused, waiting sync.WaitGroup
	refusals := make(chan error, tried)
	refused.Add(tried - allowed)
	for i := range tried {
		// Half of them never say what they want.
		stream, err := topics.PubSub.PullMessages(ctx)
		require.NoError(t, err)
		if i%2 == 0 {
			_ = stream.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "orders"}})
		}
		waiting.Go(func() {
			if _, err := stream.Recv(); ctx.Err() == nil {
				refusals <- err
				refused.Done()
			}
		})
	}
	refused.Wait()
	honest(t, store)
	for range tried - allowed {
		err := <-refusals
		require.Equal(t, codes.ResourceExhausted, status.Code(err), fmt.Sprint(err))
		require.ErrorContains(t, err, "too many subscriptions: 1000 are open; --max-streams allows no more")
	}
	cancel()
	waiting.Wait()
	e.back(b, before, 64<<20)
	stream, err := topics.Pull(t.Context(), "orders")
	require.NoError(t, err)
	require.NoError(t, topics.Publish(t.Context(), "orders", "1", []byte("x")))
	_, err = stream.Recv()
	require.NoError(t, err, "there is room again")
}

func TestTooManyConnectionsAreRefused(t *testing.T) {
	t.Parallel()
	const allowed = 50
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-connections", strconv.Itoa(allowed)}})
	store := e.store(b)
	before := e.usage(b)
	var idle []net.Conn
	for range 3 * allowed {
		c, err := net.Dial("unix", socketOf(b))
		require.NoError(t, err)
		idle = append(idle, c)
	}
	honest(t, store)
	require.Less(t, e.usage(b).descriptors, before.descriptors+allowed+5)
	for _, c := range idle {
		require.NoError(t, c.Close())
	}
	e.back(b, before, 64<<20)
	honest(t, e.store(b))
	require.Contains(t, logOf(t, b), "50 connections are open, and no more are allowed")
}

func TestAnInitStormIsBounded(t *testing.T) {
	t.Parallel()
	const allowed, storm = 5, 300
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-databases", strconv.Itoa(allowed)}})
	store := e.store(b)
	refusals := 0
	for i := range storm {
		c, err := harness.Dial(socketOf(b), fmt.Sprintf("storm-%d", i))
		require.NoError(t, err)
		err = c.InitState(t.Context(), "database", fmt.Sprintf("storm-%d", i), "padding", strings.Repeat("x", 10000))
		if err != nil {
			refusals++
			require.ErrorContains(t, err, "too many databases or buckets: 5 databases are open, and no more are allowed")
		}
		require.NoError(t, c.Close())
	}
	require.Equal(t, storm-(allowed-1), refusals, "beside the default database")
	files, err := filepath.Glob(filepath.Join(b.DataDir, "*.db"))
	require.NoError(t, err)
	require.Len(t, files, allowed)
	// The same again and again, of clients that come and go.
	before := e.usage(b)
	for i := range storm {
		c, err := harness.Dial(socketOf(b), fmt.Sprintf("again-%d", i))
		require.NoError(t, err)
		require.NoError(t, c.InitState(t.Context(), "padding", strings.Repeat("x", 1000)))
		require.NoError(t, c.Close())
	}
	honest(t, store)
	e.back(b, before, 64<<20)
	info, err := os.Stat(filepath.Join(b.DataDir, "sidecars.json"))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(4<<20))
}

// A reader that does not read holds up itself alone. What all of them hold is --max-pending-bytes and one event each,
// once as read from the file and once as gRPC has encoded it; Go lets memory grow to twice of that before it collects.
func TestSlowReadersHoldUpNobody(t *testing.T) {
	t.Parallel()
	const readers, events, size, pending = 50, 20, 1 << 20, 16 << 20
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-pending-bytes", strconv.Itoa(pending)}})
	store, publisher := e.store(b), e.pubsub(b, "publisher")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := e.usage(b)
	for i := range readers {
		_, err := e.pubsub(b, fmt.Sprintf("slow-%d", i)).Pull(ctx, "orders")
		require.NoError(t, err)
	}
	good := e.pubsub(b, "good")
	stream, err := good.Pull(ctx, "orders")
	require.NoError(t, err)
	for i := range events {
		require.NoError(t, publisher.Publish(t.Context(), "orders", strconv.Itoa(i), make([]byte, size)))
		m, err := stream.Recv()
		require.NoError(t, err)
		require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
		honest(t, store)
	}
	used := e.usage(b)
	fmt.Printf("%d readers that do not read, with %d events of %d bytes before them: %d MiB\n", readers, events, size, used.memory>>20)
	require.Less(t, used.memory-before.memory, int64(memoryFactor*2*2*(pending+readers*size)))
}

func TestTooManyTopicsAndGroupsAreRefused(t *testing.T) {
	t.Parallel()
	const topics, groups, tried = 30, 10, 50
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-topics", strconv.Itoa(topics), "--max-groups", strconv.Itoa(groups)}})
	store, random := e.store(b), e.pubsub(b, "random")
	refused := func(err error, text string) {
		require.Equal(t, codes.ResourceExhausted, status.Code(err), fmt.Sprint(err))
		require.ErrorContains(t, err, text)
		honest(t, store)
	}
	for i := range topics + tried {
		err := random.Publish(t.Context(), fmt.Sprintf("random-%d", i), "1", []byte("x"))
		if i < topics {
			require.NoError(t, err)
			continue
		}
		refused(err, "too many topics: the bucket has 30; --max-topics allows no more than 30")
	}
	for _, each := range []struct{ topic, text string }{
		{"random-0", `too many consumer groups: topic "random-0" has 10; --max-groups allows no more than 10`},
		{">", "too many consumer groups: the bucket has 10 with wildcard subscriptions; --max-groups allows no more than 10"},
	} {
		for i := range groups + tried {
			ctx, leave := context.WithCancel(t.Context())
			stream, err := e.pubsub(b, fmt.Sprintf("group-%d", i)).Pull(ctx, each.topic)
			require.NoError(t, err)
			_, err = stream.Recv()
			if i < groups {
				require.NoError(t, err)
			} else {
				refused(err, each.text)
			}
			leave()
		}
	}
	require.NoError(t, random.Publish(t.Context(), "random-1", "2", []byte("x")), "what is there stays in use")
}

// Large requests beyond --max-request-bytes are refused, and small ones are answered meanwhile.
func TestTooManyLargeRequestsAreRefused(t *testing.T) {
	t.Parallel()
	const clients, size, allowed = 64, 3 << 20, 16 << 20
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Args: []string{"--max-request-bytes", strconv.Itoa(allowed)}})
	store := e.store(b)
	before := e.usage(b)
	var storm sync.WaitGroup
	errs := make(chan error, clients)
	for i := range clients {
		storm.Go(func() { errs <- store.Set(t.Context(), fmt.Sprint(i), make([]byte, size)) })
	}
	honest(t, store)
	storm.Wait()
	close(errs)
	refused := 0
	for err := range errs {
		if err != nil {
			refused++
			// gRPC answers for one that is refused before it is all there.
			require.Contains(t, []codes.Code{codes.ResourceExhausted, codes.Internal}, status.Code(err), fmt.Sprint(err))
			require.ErrorContains(t, err, "too many requests at once")
			require.ErrorContains(t, err, "--max-request-bytes allows no more than 16777216")
		}
	}
	require.Positive(t, refused)
	require.Less(t, refused, clients)
	require.NoError(t, store.Set(t.Context(), "again", make([]byte, size)), "there is room again")
	// All of them may have arrived at the same time, each as it came and decoded.
	require.Less(t, e.usage(b).memory-before.memory, int64(memoryFactor*2*2*clients*size))
}

func TestNobodyAcknowledgesForOthers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	victim, attacker := e.pubsub(b, "victim"), e.pubsub(b, "attacker")
	first, leave := context.WithCancel(t.Context())
	stream, err := victim.Pull(first, "orders")
	require.NoError(t, err)
	require.NoError(t, victim.Publish(t.Context(), "orders", "1", []byte("x")))
	m, err := stream.Recv()
	require.NoError(t, err)
	theirs, err := attacker.Pull(t.Context(), "orders")
	require.NoError(t, err)
	own, err := theirs.Recv()
	require.NoError(t, err)
	for range 1000 {
		require.NoError(t, theirs.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
	}
	require.NoError(t, theirs.Send(&proto.PullMessagesRequest{AckMessageId: own.GetId()}))
	// That its own acknowledgement was read means that those before it were.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		owed := e.owed(b)
		require.Equal(c, 0, owed["attacker"])
		require.Equal(c, 1, owed["victim"])
	}, patience, poll)
	leave()
	again, err := victim.Pull(t.Context(), "orders")
	require.NoError(t, err)
	m, err = again.Recv()
	require.NoError(t, err)
	require.Equal(t, "x", string(m.GetData()))
	require.Equal(t, 1, strings.Count(logOf(t, b), "ignored an acknowledgement"), "it is told once")
}

// owed is what groups wait for or have in hand.
func (e *env) owed(b *harness.Bolt) map[string]int {
	e.t.Helper()
	var topics []struct {
		Groups []struct {
			Group                       string
			Waiting, InFlight, Retrying int
		}
	}
	require.NoError(e.t, b.Command(e.t.Context(), &topics, "topics"))
	owed := make(map[string]int)
	for _, t := range topics {
		for _, g := range t.Groups {
			owed[g.Group] += g.Waiting + g.InFlight + g.Retrying
		}
	}
	return owed
}
