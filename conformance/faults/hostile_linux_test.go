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
	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// memoryFactor allows for what the race detector, with which dapr-bolt is built too, keeps of all memory that was used.
var memoryFactor = map[bool]int64{false: 1, true: 8}[harness.RaceEnabled]

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
	p, err := procfs.NewProc(b.PID())
	require.NoError(e.t, err)
	u.descriptors, err = p.FileDescriptorsLen()
	require.NoError(e.t, err)
	status, err := p.NewStatus()
	require.NoError(e.t, err)
	u.memory = int64(status.RssAnon)
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
			// Nobody leaves: an event that waits for another try in every group is not kept for groups that come later.
			stream, err := e.pubsub(b, fmt.Sprintf("group-%d", i)).Pull(t.Context(), each.topic)
			require.NoError(t, err)
			_, err = stream.Recv()
			if i < groups {
				require.NoError(t, err)
			} else {
				refused(err, each.text)
			}
		}
	}
	require.NoError(t, random.Publish(t.Context(), "random-1", "2", []byte("x")), "what is there stays in use")
}

// bytesOf is the README's formula of what clients can make dapr-bolt hold. Go lets memory grow to twice of what lives
// before it collects.
func bytesOf(maxRequestBytes, maxCalls int64) int64 {
	return memoryFactor * 2 * (6*maxRequestBytes + 70<<10*maxCalls)
}

// Whatever mistakes clients make, what they take is bounded, and others are served meanwhile.
func TestWhatClientsTakeIsBounded(t *testing.T) {
	const (
		allowed, calls = 16 << 20, 2000
		message        = 16 << 20
		set            = proto.StateStore_Set_FullMethodName
		pull           = proto.PubSub_PullMessages_FullMethodName
		ended          = "ended a call whose request was still arriving"
	)
	bound := bytesOf(allowed, calls)
	all := make([]byte, message-1)
	topic, err := googleproto.Marshal(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "orders"}})
	require.NoError(t, err)
	for _, test := range []struct {
		name             string
		clients, streams int
		// attack is what one client does on one stream.
		attack       func(c *rawClient)
		answer, logs string
	}{
		{"10000 requests of which half is sent", 4, 2500, func(c *rawClient) {
			if s := c.call(set); c.claim(s, 96<<10) {
				c.send(s, all[:48<<10], 16<<10)
			}
		}, "", ended},
		{"100 connections with requests of which half is sent", 100, 4, func(c *rawClient) {
			if s := c.call(set); c.claim(s, 2<<20) {
				c.send(s, all[:1<<20], 16<<10)
			}
		}, "too many requests at once: what is still arriving takes too much; --max-request-bytes allows no more than 16777216", ended},
		{"all but the last byte", 4, 32, func(c *rawClient) {
			if s := c.call(set); c.claim(s, message) {
				c.send(s, all, 16<<10)
			}
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"large requests, all of them sent", 4, 64, func(c *rawClient) {
			_, _ = c.request(set, &proto.SetRequest{Key: "large", Value: all[:3<<20]})
		}, "", ""},
		{"nothing but headers", 8, 4000, func(c *rawClient) { c.call(set) },
			"too many calls at once: --max-calls allows no more than 2000 to be open", ended},
		{"nothing but headers, and no answer is read", 4, 16000, func(c *rawClient) {
			c.deafen()
			c.call(set)
		}, "", ended},
		{"many fields in the headers", 8, 500, func(c *rawClient) {
			fields := make([]hpack.HeaderField, 400)
			for i := range fields {
				fields[i] = hpack.HeaderField{Name: "x" + strconv.Itoa(i)}
			}
			c.call(set, fields...)
		}, "--max-calls", ended},
		{"a list of headers of 1 MiB", 8, 64, func(c *rawClient) {
			fields := make([]hpack.HeaderField, 64)
			for i := range fields {
				fields[i] = hpack.HeaderField{Name: "x" + strconv.Itoa(i), Value: strings.Repeat("~", 16<<10)}
			}
			c.call(set, fields...)
		}, "", ""},
		{"acknowledgements", 4, 32, func(c *rawClient) {
			if s := c.call(pull); c.claim(s, len(topic)) && c.send(s, topic, 16<<10) && c.claim(s, message) {
				c.send(s, all, 16<<10)
			}
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"answers of 4 MiB that nobody reads", 4, 64, func(c *rawClient) {
			_, _ = c.request(proto.StateStore_Get_FullMethodName, &proto.GetRequest{Key: "large"})
		}, "too many answers at once", ""},
		{"bulk gets of 16 values of 4 MiB that nobody reads", 5, 100, func(c *rawClient) {
			r := &proto.BulkGetRequest{}
			for range 16 {
				r.Items = append(r.Items, &proto.GetRequest{Key: "large"})
			}
			_, _ = c.request(proto.StateStore_BulkGet_FullMethodName, r)
		}, "too many answers at once", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEnv(t)
			b := e.bolt(harness.BoltOptions{Args: []string{"--max-request-bytes", strconv.Itoa(allowed), "--max-calls", strconv.Itoa(calls)}})
			store, bus := e.store(b), e.pubsub(b, "honest")
			require.NoError(t, store.Set(t.Context(), "large", make([]byte, 4<<20-80<<10)))
			stream, err := bus.Pull(t.Context(), "honest")
			require.NoError(t, err)
			events := 0
			serve := func() {
				honest(t, store)
				events++
				require.NoError(t, bus.Publish(t.Context(), "honest", strconv.Itoa(events), []byte("x")))
				m, err := stream.Recv()
				require.NoError(t, err)
				require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
			}
			serve()
			before := e.usage(b)

			var most int64
			var clients []*rawClient
			var attacks sync.WaitGroup
			for range test.clients {
				c := newRawClient(t, b)
				clients = append(clients, c)
				require.NoError(t, initialize(c))
				attacks.Go(func() {
					begin := make(chan struct{}, 64)
					var streams sync.WaitGroup
					for range test.streams {
						begin <- struct{}{}
						streams.Go(func() {
							defer func() { <-begin }()
							test.attack(c)
						})
					}
					streams.Wait()
				})
			}
			done := make(chan struct{})
			go func() {
				attacks.Wait()
				close(done)
			}()
			served, slowest := 0, time.Duration(0)
			for over := false; !over; served++ {
				select {
				case <-done:
					over = true
				default:
				}
				began := time.Now()
				serve()
				slowest = max(slowest, time.Since(began))
				most = max(most, e.usage(b).memory)
			}
			// They stay, and finish nothing.
			for range 10 {
				serve()
				most = max(most, e.usage(b).memory)
			}
			fmt.Printf("%s: %d MiB before, %d MiB at most, of %d; an honest client was served %d times meanwhile, in %v at most\n",
				t.Name(), before.memory>>20, most>>20, bound>>20, served, slowest)
			require.Less(t, most-before.memory, bound)
			if test.answer != "" {
				answered := 0
				for _, c := range clients {
					answered += c.answered(test.answer)
				}
				require.Positive(t, answered)
			}
			require.Contains(t, logOf(t, b), test.logs)
			for _, c := range clients {
				c.close()
			}
			e.back(b, before, bound)
			serve()
		})
	}
}

// initialize makes components on the connection, and waits until they are there, so that its calls are not refused for
// want of one.
func initialize(c *rawClient) error {
	for _, init := range []struct {
		method  string
		request googleproto.Message
	}{
		{proto.StateStore_Init_FullMethodName, &proto.InitRequest{Metadata: &proto.MetadataRequest{}}},
		{proto.PubSub_Init_FullMethodName, &proto.PubSubInitRequest{
			Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "hostile"}}}},
	} {
		stream, err := c.request(init.method, init.request)
		if err != nil {
			return err
		}
		c.waitEnded(stream)
	}
	return nil
}

// request sends all of a call, and returns its stream.
func (c *rawClient) request(method string, m googleproto.Message) (stream uint32, err error) {
	raw, err := googleproto.Marshal(m)
	if err != nil {
		return 0, err
	}
	stream = c.call(method)
	if !c.claim(stream, len(raw)) || !c.send(stream, raw, 16<<10) {
		return 0, fmt.Errorf("stream %d was ended", stream)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return stream, c.framer.WriteData(stream, true, nil)
}

// waitEnded waits until the server has ended a stream, or the connection is gone.
func (c *rawClient) waitEnded(stream uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended[stream] && !c.gone {
		c.changed.Wait()
	}
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

// owed is what groups wait for or have in flight.
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
