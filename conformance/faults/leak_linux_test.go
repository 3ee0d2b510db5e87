package faults

import (
	"context"
	"flag"
	"fmt"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var rounds = flag.Int("rounds", 400, "how often TestRoundsLeaveNothing connects, subscribes and disconnects")

func TestRoundsLeaveNothing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	// Left to itself, the process collects nothing before there are 32 MiB of garbage, which are not what is looked for.
	b := e.bolt(harness.BoltOptions{Env: []string{"GOGC=50"}})
	store, publisher := e.store(b), e.pubsub(b, "publisher")
	round := func(i int) {
		t.Helper()
		c, err := harness.Dial(socketOf(b), "rounds")
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.InitState(t.Context()))
		require.NoError(t, c.InitPubSub(t.Context(), "consumerID", "rounds"))
		require.NoError(t, c.Set(t.Context(), "round", fmt.Append(nil, i)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := c.Pull(ctx, "orders")
		require.NoError(t, err)
		if i%4 == 0 {
			return // in the middle of subscribing
		}
		require.NoError(t, publisher.Publish(t.Context(), "orders", fmt.Sprint(i), fmt.Append(nil, i)))
		m, err := stream.Recv()
		require.NoError(t, err)
		if i%4 == 1 {
			return // with an event in flight
		}
		require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
		if i%4 == 2 {
			require.NoError(t, stream.CloseSend())
		}
	}
	warm := max(*rounds/10, 100)
	for i := range warm {
		round(i)
	}
	before := e.usage(b)
	for i := range *rounds {
		round(warm + i)
	}
	honest(t, store)
	// What a round would leave behind, however little, would show: a goroutine alone has 2 KiB.
	e.back(b, before, 16<<20)
	fmt.Printf("before %d rounds: %+v; after: %+v\n", *rounds, before, e.usage(b))
}
