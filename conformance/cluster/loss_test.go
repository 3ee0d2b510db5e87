package cluster_test

import (
	"fmt"
	"net/http"
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

// consumer is a sidecar's subscription to topic t, which acknowledges whatever comes.
type consumer struct {
	mu   sync.Mutex
	seen map[string]int // by data
}

// consume consumes in the background until the test ends.
func consume(t *testing.T, c *harness.Client) *consumer {
	t.Helper()
	stream, err := c.Pull(t.Context(), "t")
	require.NoError(t, err)
	all := &consumer{seen: map[string]int{}}
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return // the test is over, or sees nothing more
			}
			all.mu.Lock()
			all.seen[string(m.GetData())]++
			all.mu.Unlock()
			_ = stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()})
		}
	})
	t.Cleanup(receiving.Wait)
	return all
}

func (c *consumer) count(data string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[data]
}

func (c *consumer) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// Two replicas of an app, each with a dapr-bolt of its own, share the events of their group; when one of them ends, the other
// gets what comes.
func TestReplicasShareAGroup(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	nats := harness.StartNATS(t, h, harness.ClusterOptions{})
	var bolts [2]*harness.Bolt
	var clients [2]*harness.Client
	var consumers [2]*consumer
	for i := range bolts {
		name := fmt.Sprint("bolt-", i)
		bolts[i] = harness.StartBolt(t, h, harness.BoltOptions{Name: name, DataDir: h.Dir(name), SocketDir: h.SocketDir() + name})
		clients[i] = newClient(t, bolts[i])
		require.NoError(t, clients[i].InitPubSub(t.Context(), nats.Metadata("consumerID", "app")...))
		consumers[i] = consume(t, clients[i])
	}
	published := 0
	publish := func() {
		for i := range 50 {
			id := fmt.Sprint(published)
			require.NoError(t, clients[i%len(clients)].Publish(t.Context(), "t", id, []byte(id)))
			published++
		}
	}
	// Who is first may be given all of a few.
	require.Eventually(t, func() bool {
		publish()
		return consumers[0].total() > 0 && consumers[1].total() > 0
	}, waitLong, 10*time.Millisecond, "one replica gets all events")
	require.Eventually(t, func() bool { return consumers[0].total()+consumers[1].total() == published }, waitLong, 20*time.Millisecond)
	for i := range published {
		id := fmt.Sprint(i)
		require.Equal(t, 1, consumers[0].count(id)+consumers[1].count(id), "event %s", id)
	}

	require.NoError(t, bolts[0].Stop())
	require.NoError(t, clients[1].Publish(t.Context(), "t", "last", []byte("last")))
	require.Eventually(t, func() bool { return consumers[1].count("last") == 1 }, waitLong, 20*time.Millisecond)
}

// All servers are gone: calls fail with an error that says so, /readyz says who cannot be reached, and when they are back,
// everything goes on, also the subscription that the sidecar opened before.
func TestLossOfAllServers(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{})
	nats := harness.StartNATS(t, h, harness.ClusterOptions{})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	c := newClient(t, bolt)
	// Calls are to fail soon, and so may Init on a busy machine.
	require.Eventually(t, func() bool {
		return c.InitState(t.Context(), "engine", "etcd", "endpoints", etcd.Endpoints(), "dialTimeout", "1m", "requestTimeout", "2s") == nil &&
			c.InitPubSub(t.Context(), "engine", "nats", "url", nats.URL(), "consumerID", "app", "requestTimeout", "3s") == nil
	}, waitLong, 20*time.Millisecond)
	events := consume(t, c)
	set := func() error { return c.Set(t.Context(), "k", []byte("v")) }
	publish := func(id string) error { return c.Publish(t.Context(), "t", id, []byte(id)) }
	ready := func() harness.Response {
		response, err := harness.Call(t.Context(), http.MethodGet, "http://"+bolt.HTTPAddress+"/readyz", nil)
		require.NoError(t, err)
		return response
	}
	fails := func(what string, call func() error, names string) {
		t.Helper()
		began := time.Now()
		err := call()
		t.Logf("%s fails after %s: %v", what, time.Since(began).Round(10*time.Millisecond), err)
		require.Error(t, err)
		require.Contains(t, []codes.Code{codes.Unavailable, codes.DeadlineExceeded}, status.Code(err))
		require.ErrorContains(t, err, names)
		require.Less(t, time.Since(began), time.Minute, "a few seconds were asked for")
	}
	metrics := func() string {
		response, err := harness.Call(t.Context(), http.MethodGet, "http://"+bolt.HTTPAddress+"/metrics", nil)
		require.NoError(t, err)
		return string(response.Body)
	}
	require.Eventually(t, func() bool { return set() == nil && publish("before") == nil }, waitLong, 20*time.Millisecond)
	require.Eventually(t, func() bool { return events.count("before") == 1 }, waitLong, 20*time.Millisecond)

	for round := range 2 {
		for _, m := range etcd.Servers {
			m.Kill()
		}
		for _, m := range nats.Servers {
			m.Kill()
		}
		fails("set", set, "etcd")
		fails("get", func() error { _, err := c.Get(t.Context(), "k"); return err }, "etcd")
		fails("publish", func() error { return publish("during") }, "nats")
		response := ready()
		t.Logf("/readyz: %d %s", response.Status, response.Body)
		require.Equal(t, http.StatusServiceUnavailable, response.Status)
		for _, address := range append(strings.Split(etcd.Endpoints(), ","), strings.Split(nats.URL(), ",")...) {
			require.Contains(t, string(response.Body), address)
		}
		told := metrics()
		require.Contains(t, told, `dapr_bolt_nats_stream_has_leader{bucket="pubsub",database="nats-dapr-bolt"} 0`)
		for _, m := range etcd.Servers {
			require.Contains(t, told, fmt.Sprintf("dapr_bolt_etcd_server_up{server=%q} 0\n", m.Endpoint))
		}

		for _, m := range etcd.Servers {
			require.NoError(t, m.Start())
		}
		for _, m := range nats.Servers {
			require.NoError(t, m.Start())
		}
		require.NoError(t, etcd.WaitReady(t.Context()))
		require.NoError(t, nats.WaitReady(t.Context()))
		back := time.Now()
		after := fmt.Sprint("after", round)
		require.EventuallyWithT(t, func(collect *assert.CollectT) {
			require.NoError(collect, set())
			require.NoError(collect, publish(after))
			require.Equal(collect, http.StatusOK, ready().Status)
			told := metrics()
			for _, m := range etcd.Servers {
				require.Contains(collect, told, fmt.Sprintf("dapr_bolt_etcd_server_up{server=%q} 1\n", m.Endpoint))
				require.Contains(collect, told, fmt.Sprintf("dapr_bolt_etcd_server_alarms{server=%q} 0\n", m.Endpoint))
			}
			for _, m := range nats.Servers {
				require.Contains(collect, told, fmt.Sprintf("dapr_bolt_nats_server_up{bucket=%q,database=%q,server=%q} 1\n", "pubsub", "nats-dapr-bolt", m.Name()))
			}
		}, waitLong, 100*time.Millisecond)
		require.Eventually(t, func() bool { return events.count(after) > 0 }, waitLong, 20*time.Millisecond, "the subscription is dead")
		t.Logf("all is back %s after the servers", time.Since(back).Round(10*time.Millisecond))
	}
	got, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(got))
	// A clean stop takes servers that lead again, for which nobody waits here.
	bolt.Kill()
}
