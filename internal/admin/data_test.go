package admin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLong is how long a test waits for what must come before it gives up.
const waitLong = 5 * time.Minute

// data is a data directory with the default pub/sub bucket.
type data struct {
	t         *testing.T
	dir       string
	manager   *databases.Manager
	metrics   *metrics.Metrics
	broker    pubsub.Service
	service   *Service
	published int
}

func newData(t *testing.T) *data {
	t.Helper()
	d := &data{t: t, dir: t.TempDir(), metrics: metrics.New()}
	var err error
	d.manager, err = databases.Open(t.Context(), databases.Options{Dir: d.dir, Metrics: d.metrics})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.manager.Close(context.Background())) })
	d.service = NewService(ServiceOptions{
		Databases: d.manager,
		Ready:     func(context.Context) error { return nil },
		Info:      func() Info { return Info{Version: "v1", Socket: "/run/bolt.sock"} },
	})
	d.broker, err = d.manager.Broker(t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(t, err)
	return d
}

// publish publishes event-1, event-2 and so on, which event's fields may change.
func (d *data) publish(topic, payload string, change ...func(event *pubsub.Message)) {
	d.t.Helper()
	d.published++
	m := pubsub.Message{Data: []byte(payload), EventID: fmt.Sprintf("event-%d", d.published)}
	for _, c := range change {
		c(&m)
	}
	byID, err := pubsub.ParseDedupBy("id")
	require.NoError(d.t, err)
	require.NoError(d.t, d.broker.Publish(d.t.Context(), topic, []pubsub.Message{m}, pubsub.PublishOptions{DedupBy: byID, DedupWindow: time.Minute})[0])
}

func (d *data) subscribe(opts pubsub.SubscribeOptions) pubsub.Subscription {
	d.t.Helper()
	if opts.Group == "" {
		opts.Group = "app"
	}
	sub, err := d.broker.Subscribe(d.t.Context(), opts)
	require.NoError(d.t, err)
	d.t.Cleanup(sub.Close)
	return sub
}

func (d *data) next(sub pubsub.Subscription) *pubsub.Delivery {
	d.t.Helper()
	delivery, err := sub.Next(d.t.Context())
	require.NoError(d.t, err)
	return delivery
}

// dies publishes an event that the group "app" gives up on, and returns the id of the dead letter.
func (d *data) dies(topic, payload string) uint64 {
	d.t.Helper()
	before, _, err := d.broker.DeadLetters(d.t.Context(), pubsub.DeadLetterFilter{Limit: MaxPageSize}, 0)
	require.NoError(d.t, err)
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: topic, MaxDeliver: 2})
	d.publish(topic, payload)
	d.next(sub).Nack("first")
	d.next(sub).Nack("second")
	var after []pubsub.DeadLetter
	require.Eventually(d.t, func() bool {
		after, _, err = d.broker.DeadLetters(d.t.Context(), pubsub.DeadLetterFilter{Limit: MaxPageSize}, 0)
		return err == nil && len(after) > len(before)
	}, waitLong, time.Millisecond)
	sub.Close()
	return after[len(before)].ID
}

// serve serves the data on an admin socket and returns a client of it.
func (d *data) serve() *Client {
	d.t.Helper()
	path := socketPath(d.t)
	s, err := Listen(d.t.Context(), Options{Path: path, Service: d.service})
	require.NoError(d.t, err)
	d.t.Cleanup(func() { require.NoError(d.t, s.Stop(context.Background())) })
	c := NewClient(path)
	d.t.Cleanup(c.Close)
	return c
}

// socketPath is short: a socket's path has a limit that test directories come close to.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bolt")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, SocketName)
}
