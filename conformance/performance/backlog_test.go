package performance_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var events = flag.Int("events", 200_000, "how many events pile up; `make backlog` takes five million")

const (
	payloadSize = 256
	bulk        = 2_000
	publishers  = 4
	// maxMemory is what the process may have in memory, whatever the backlog.
	maxMemory = 128 << 20
	// rounds of each measurement of speed; the middle one counts.
	rounds = 3
)

// Events that pile up for a group that is away cost disk and little else: the process stays small, and they are
// delivered about as fast as those of a topic that has few.
func TestBacklog(t *testing.T) {
	if harness.RaceEnabled {
		t.Skip("the race detector needs several times the memory; `make test` runs this package without it as well")
	}
	if runtime.GOOS != "linux" {
		t.Skip("what is in memory is read from /proc")
	}
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	c := connect(t, bolt)
	file := filepath.Join(bolt.DataDir, "dapr.db")
	size := func() int64 {
		info, err := os.Stat(file)
		require.NoError(t, err)
		return info.Size()
	}

	sample := min(*events/(rounds+1), 100_000)
	c.publish("warm", sample)
	c.consume("warm", sample)
	var short []float64
	for round := range rounds {
		topic := fmt.Sprint("short-", round)
		c.open(topic)
		c.publish(topic, sample)
		short = append(short, c.consume(topic, sample))
	}

	c.open("backlog")
	loading := watchMemory(t, bolt.PID())
	began := time.Now()
	c.publish("backlog", *events)
	took := time.Since(began)
	loaded := loading.end()
	fmt.Printf("%d events of %d bytes published in %s (%.0f/s): at most %s in memory, %s then; the file has %s\n",
		*events, payloadSize, took.Round(time.Millisecond), float64(*events)/took.Seconds(), megabytes(loaded), megabytes(loading.sample()), megabytes(size()))

	consuming := watchMemory(t, bolt.PID())
	var long []float64
	for range rounds {
		long = append(long, c.consume("backlog", sample))
	}
	ratio := median(long) / median(short)
	fmt.Printf("deliveries a second, %d at a time: %.0f of a topic with no more than these, %.0f of the backlog: %.0f %%\n",
		sample, median(short), median(long), 100*ratio)
	rest := *events - rounds*sample
	rate := c.consume("backlog", rest)
	consumed := consuming.end()
	before := size()
	fmt.Printf("the other %d consumed at %.0f/s: at most %s in memory\n",
		rest, rate, megabytes(consumed))

	// Another backlog finds its room in what the first has left, but for what checkpoints on a slow disk keep meanwhile.
	again := min(*events, 200_000)
	c.publish("backlog", again)
	c.consume("backlog", again)
	after := size()
	fmt.Printf("the file has %s when all is consumed, and %s after %d more\n", megabytes(before), megabytes(after), again)
	require.NoError(t, bolt.Stop())
	require.NoError(t, bolt.Command(t.Context(), nil, "compact"))
	fmt.Printf("the file has %s after compact\n", megabytes(size()))
	require.Less(t, size(), after/2, "ids that are remembered for 10 minutes are in it still")
	require.Less(t, after, before+before/2, "the file after its space was used again")

	require.Less(t, loaded, int64(maxMemory), "in memory while publishing")
	require.Less(t, consumed, int64(maxMemory), "in memory while consuming")
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// client publishes and consumes as one consumer group.
type client struct {
	*harness.Client
	t *testing.T
}

func connect(t *testing.T, bolt *harness.Bolt) *client {
	t.Helper()
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "backlog")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.InitPubSub(t.Context(), "consumerID", "app"))
	return &client{c, t}
}

// publish stores n events, numbered from 0, each with an id of its own.
func (c *client) publish(topic string, n int) {
	c.t.Helper()
	var group sync.WaitGroup
	life := time.Now().UnixNano()
	for p := range publishers {
		group.Go(func() {
			for from := p * bulk; from < n; from += publishers * bulk {
				entries := make([]*proto.BulkMessageEntry, min(bulk, n-from))
				for i := range entries {
					payload := make([]byte, payloadSize)
					binary.BigEndian.PutUint64(payload, uint64(from+i))
					id := strconv.Itoa(from + i)
					entries[i] = &proto.BulkMessageEntry{
						EntryId: id, Event: payload, ContentType: "application/octet-stream",
						Metadata: map[string]string{"eventID": fmt.Sprint(life, "-", id)},
					}
				}
				r, err := c.PubSub.BulkPublish(c.t.Context(), &proto.BulkPublishRequest{Topic: topic, Entries: entries})
				if err != nil || len(r.GetFailedEntries()) > 0 {
					c.t.Errorf("bulk publish: %v, %d entries failed", err, len(r.GetFailedEntries()))
					return
				}
			}
		})
	}
	group.Wait()
	require.False(c.t, c.t.Failed())
}

// open makes sure that the group is owed the topic's events.
func (c *client) open(topic string) {
	c.t.Helper()
	s := c.pull(topic)
	c.publish(topic, 1)
	s.take(1)
	s.end()
}

// consume takes n events and returns how many of them it got in a second.
func (c *client) consume(topic string, n int) float64 {
	c.t.Helper()
	s := c.pull(topic)
	defer s.end()
	began := time.Now()
	s.take(n)
	return float64(n) / time.Since(began).Seconds()
}

type stream struct {
	proto.PubSub_PullMessagesClient
	t      *testing.T
	cancel context.CancelFunc
}

func (c *client) pull(topic string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	s, err := c.Pull(ctx, topic)
	require.NoError(c.t, err)
	return &stream{s, c.t, cancel}
}

// take receives n events, each of them delivered for the first time, and acknowledges them.
func (s *stream) take(n int) {
	s.t.Helper()
	for range n {
		m, err := s.Recv()
		require.NoError(s.t, err)
		if m.GetMetadata()["deliveryCount"] != "1" {
			require.Equal(s.t, "1", m.GetMetadata()["deliveryCount"])
		}
		require.NoError(s.t, s.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
	}
}

// end says that no more is wanted, and waits until what was acknowledged has arrived.
func (s *stream) end() {
	s.t.Helper()
	defer s.cancel()
	require.NoError(s.t, s.CloseSend())
	for {
		if _, err := s.Recv(); err != nil {
			return
		}
	}
}
