package e2e_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// Two apps, and two instances of one of them: three sidecars with the same component name on one dapr-bolt.
func TestEveryAppGetsEveryEventAndInstancesShare(t *testing.T) {
	t.Parallel()
	const events, publishers = 300, 6
	e := newEnv(t)
	first, second, other := e.app(nil, subscribe("orders")), e.app(nil, subscribe("orders")), e.app(nil, subscribe("orders"))
	sidecars := []*harness.Daprd{
		e.sidecar("shop-1", "shop", first, "maxAckPending", "4"),
		e.sidecar("shop-2", "shop", second, "maxAckPending", "4"),
		e.sidecar("billing", "billing", other),
	}
	e.ready(sidecars...)
	e.streams("orders", "billing", 1)
	e.streams("orders", "shop", 2)

	want := make(map[string]int, events)
	for i := range events {
		want[eventID(i)] = 1
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for i := p; i < events; i += publishers {
				err := sidecars[i%len(sidecars)].Publish(t.Context(), pubsubName, "orders", map[string]int{"order": i},
					map[string]string{"cloudevent.id": eventID(i)})
				if err != nil {
					t.Errorf("publishing event %d: %v", i, err)
				}
			}
		})
	}
	publishing.Wait()
	e.settled()

	require.Equal(t, want, other.byID(), "what the billing app received: every event, none twice")
	shop := first.byID()
	for id, n := range second.byID() {
		shop[id] += n
	}
	require.Equal(t, want, shop, "what the two instances of the shop received together: every event, none twice")
	require.NotEmpty(t, first.received(), "the first instance's share")
	require.NotEmpty(t, second.received(), "the second instance's share")
	fmt.Printf("%d events published: billing received %d; the shop's instances %d and %d\n",
		events, len(other.received()), len(first.received()), len(second.received()))
	for _, d := range append(first.received(), second.received()...) {
		require.Equal(t, 1, d.count(), "deliveryCount of %s", d.ID)
	}
}
