package suites

import (
	"context"
	"testing"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	suite "github.com/dapr/components-contrib/tests/conformance/pubsub"
	adapters "github.com/dapr/dapr/pkg/components/pubsub"
	"github.com/dapr/kit/logger"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
)

const pubsubSubTests = 11

func TestPubSubOverTheSocket(t *testing.T) {
	official(t, "pub/sub suite, over the socket", pubsubSubTests, func(t *testing.T) {
		pubsubSuite(t, socketPubSub{adapters.NewGRPCPubSub(logger.NewLogger("pubsub-adapter"), startProcess(t))})
	})
}

func TestPubSubOnNATSOverTheSocket(t *testing.T) {
	official(t, "pub/sub suite on NATS, over the socket", pubsubSubTests, func(t *testing.T) {
		nats := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{})
		pubsubSuite(t, socketPubSub{adapters.NewGRPCPubSub(logger.NewLogger("pubsub-adapter"), startProcess(t))},
			nats.Metadata()...)
	})
}

func pubsubSuite(t *testing.T, ps publisherSubscriber, settings ...string) {
	t.Helper()
	config, err := suite.NewTestConfig(component.DefaultName, []string{"bulkpublish", "bulksubscribe"}, nil)
	require.NoError(t, err)
	// How long the suite sleeps for brokers whose subscribers are slow to come up. Ours keeps what it was given.
	config.WaitDurationToPublish = 100 * time.Millisecond
	taken := newTurns(ps, &config)
	metadata := map[string]string{
		"consumerID": "suite",
		"backOff":    "50ms",
	}
	for i := 0; i < len(settings); i += 2 {
		metadata[settings[i]] = settings[i+1]
	}
	suite.ConformanceTests(t, metadata, taken, config)
	require.Empty(t, taken.unpaid(), "events that were not handled")
}

// socketPubSub is the runtime's adapter. Sub-test "ping" demands Ping(ctx), and the adapter's takes no context; all else
// is the adapter's.
type socketPubSub struct{ pubsubAdapter }

type pubsubAdapter interface {
	pubsub.PubSub
	pubsub.BulkPublisher
	Ping() error
}

// Ping implements health.Pinger.
func (p socketPubSub) Ping(context.Context) error { return p.pubsubAdapter.Ping() }
