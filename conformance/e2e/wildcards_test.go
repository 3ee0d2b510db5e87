package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A subscription's topic may hold wildcards, also for topics that nobody has heard of yet; each event says which topic it
// was published to.
func TestWildcards(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	rest, part := e.app(nil, subscribe("orders.>")), e.app(nil, subscribe("orders.*.placed"))
	// Of a raw payload, the sidecar makes the CloudEvent itself, of what the delivery says.
	raw := e.app(nil, subscribe("raw.>", "rawPayload", "true"))
	publisher := e.sidecar("publisher", "publisher", nil)
	e.ready(publisher)
	e.publish(publisher, "orders.de.placed", "before anybody subscribed")
	e.ready(e.sidecar("rest", "rest", rest), e.sidecar("raw", "raw", raw))
	rest.wait(1)
	e.ready(e.sidecar("part", "part", part))

	topics := []string{"orders.de.placed", "orders.fr.placed", "orders.fr.paid", "orders.fr.placed.twice", "orders", "parcels.fr.placed"}
	for _, topic := range topics {
		e.publish(publisher, topic, topic)
	}
	e.publish(publisher, "raw.it.placed", "raw", "rawPayload", "true")
	e.settled()

	type seen struct{ topic, id string }
	of := func(a *app) (all []seen) {
		for _, d := range a.received() {
			all = append(all, seen{d.Topic, d.ID})
		}
		return all
	}
	want := []seen{{"orders.de.placed", "orders.de.placed"}, {"orders.fr.placed", "orders.fr.placed"}}
	require.ElementsMatch(t, want, of(part))
	want = append(want, seen{"orders.de.placed", "before anybody subscribed"},
		seen{"orders.fr.paid", "orders.fr.paid"}, seen{"orders.fr.placed.twice", "orders.fr.placed.twice"})
	require.ElementsMatch(t, want, of(rest))
	require.Len(t, raw.received(), 1)
	require.Equal(t, "raw.it.placed", raw.received()[0].Topic)
}

// Two subscriptions of one app that match one topic are one consumer group, and share its events; a consumerID keeps them apart.
func TestOverlappingSubscriptions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	apart := e.app(nil, subscribe("orders.>", "consumerID", "audit"), subscribe("orders.placed"))
	d := e.sidecar("apart", "apart", apart)
	e.ready(d)
	require.NotContains(t, e.log(e.bolt), "match the same topics")
	shared := e.app(nil, subscribe("orders.>"), subscribe("orders.placed"))
	e.ready(e.sidecar("shared", "shared", shared))
	e.eventually(func(c *assert.CollectT) { require.Contains(c, e.log(e.bolt), "match the same topics") })
	ids := eventIDs(20)
	e.bulk(d, "orders.placed", ids)
	e.settled()
	for _, id := range ids {
		require.Equal(t, 2, apart.times(id), id)
		require.Equal(t, 1, shared.times(id), id)
	}
}
