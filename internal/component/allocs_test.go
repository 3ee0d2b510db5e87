//go:build !race

package component

import (
	"math"
	"strconv"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAllocs keeps the allocations of a call in check: those beyond what a bare gRPC server takes for the same messages.
// Each write is alone in its commit, whose own allocations are in the number. The race detector allocates too.
func TestAllocs(t *testing.T) {
	const runs, rounds, deliveries = 50, 3, 500
	ours, bare := connectOurs(t), connectBare(t)
	value, id := make([]byte, benchSize), 0
	_, err := ours.Set(ours.ctx, &proto.SetRequest{Key: "there", Value: value})
	require.NoError(t, err)
	ours.waiting(rounds * (runs + 1) * deliveries)

	for _, c := range []struct {
		call string
		most float64
		run  func(c *benchSidecar) error
	}{
		{"Ping", 11, func(c *benchSidecar) error {
			_, err := c.Ping(c.ctx, &proto.PingRequest{})
			return err
		}},
		{"Get", 13, func(c *benchSidecar) error {
			_, err := c.Get(c.ctx, &proto.GetRequest{Key: "there"})
			return err
		}},
		{"Set", 47, func(c *benchSidecar) error {
			_, err := c.Set(c.ctx, &proto.SetRequest{Key: "there", Value: value})
			return err
		}},
		{"Publish", 86, func(c *benchSidecar) error {
			id++
			_, err := c.bus.Publish(c.ctx, &proto.PublishRequest{Topic: "elsewhere", Data: value, Metadata: map[string]string{keyEventID: strconv.Itoa(id)}})
			return err
		}},
		{"stream of 500 deliveries", 6_000, func(c *benchSidecar) error { return c.deliver("t", deliveries) }},
	} {
		// Whatever else happens in the process only adds to the number, so that the least of a few is the call's own.
		allocs := func(server *benchSidecar) float64 {
			least := math.Inf(1)
			for range rounds {
				least = min(least, testing.AllocsPerRun(runs, func() { require.NoError(t, c.run(server)) }))
			}
			return least
		}
		got := allocs(ours) - allocs(bare)
		t.Logf("%s: %.0f allocations", c.call, got)
		assert.LessOrEqual(t, got, c.most, "allocations of a %s", c.call)
	}
}
