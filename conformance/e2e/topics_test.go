package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// `dapr-bolt topics` says what each topic holds and each group is owed; a group that left for good can be removed.
func TestTopicsAndGroups(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	hang := make(chan struct{})
	defer close(hang)
	a := e.app(func(d delivery) (int, string) {
		switch d.ID {
		case "retried", "dead":
			return http.StatusInternalServerError, "no"
		case "in flight":
			<-hang
		}
		return http.StatusOK, ""
	}, subscribe("orders"))
	left := e.app(nil, subscribe("orders"))
	shop := e.sidecar("shop", "shop", a, "maxAckPending", "1", "backOff", "1h")
	gone := e.sidecar("gone", "gone", left)
	e.ready(shop, gone)
	e.streams("orders", "gone", 1)
	require.NoError(t, gone.Stop())
	e.streams("orders", "gone", 0)

	began := time.Now().Add(-time.Second)
	for _, id := range []string{"fine", "retried", "in flight", "waiting", "waiting too"} {
		e.publish(shop, "orders", id)
	}
	e.publish(shop, "orders", "fine")
	e.publish(shop, "orders", "later", "deliverAfter", "1h")
	e.eventually(func(c *assert.CollectT) {
		topic := e.topic("orders")
		require.EqualValues(c, 5, topic.Stored)
		require.EqualValues(c, 1, topic.Delayed)
		require.EqualValues(c, 1, topic.Duplicates)
		require.Positive(c, topic.Bytes)
		require.NotNil(c, topic.OldestTime)
		require.Len(c, topic.Groups, 2)
		g := e.group("orders", "shop")
		require.Equal(c, []uint64{2, 1, 1, 0}, []uint64{g.Waiting, g.InFlight, g.Retrying, g.Dead})
		require.Equal(c, 1, g.Streams)
		require.NotNil(c, g.OldestTime)
	})
	g := e.group("orders", "gone")
	require.Equal(t, []uint64{5, 0, 0, 0}, []uint64{g.Waiting, g.InFlight, g.Retrying, g.Dead})
	require.WithinRange(t, *g.OldestTime, began, time.Now())
	require.True(t, g.OldestTime.Before(*e.group("orders", "shop").OldestTime), "the first event, with which the shop is done")

	require.ErrorContains(t, e.bolt.Command(t.Context(), nil, "topics", "remove-group", "orders", "gone"), "--yes")
	require.ErrorContains(t, e.bolt.Command(t.Context(), nil, "topics", "remove-group", "orders", "shop", "--yes"), "stop its app first")
	require.NoError(t, e.bolt.Command(t.Context(), nil, "topics", "remove-group", "orders", "gone", "--yes"))
	require.ErrorContains(t, e.bolt.Command(t.Context(), nil, "topics", "remove-group", "orders", "gone", "--yes"), `has no group "gone"`)
	topic := e.topic("orders")
	require.Len(t, topic.Groups, 1)
	require.EqualValues(t, 3, topic.Stored, "what only the group that left was owed is gone; the retry is a copy")
}

// A group that left for good and had subscribed with a wildcard is owed the topics to come until that is removed too.
func TestRemoveAGroupOfAWildcard(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.groupClient("app", "consumerID", "app")
	s := c.consume("orders.>", "")
	c.publish("orders.de", "1")
	e.eventually(func(ct *assert.CollectT) { require.Equal(ct, []string{"1"}, s.received()) })
	s.stop()
	e.streams("orders.de", "app", 0)
	c.publish("orders.fr", "2")
	require.EqualValues(t, 1, e.group("orders.fr", "app").Waiting)
	require.NoError(t, e.bolt.Command(t.Context(), nil, "topics", "remove-group", "orders.>", "app", "--yes"))
	c.publish("orders.it", "3")
	require.Empty(t, e.topic("orders.it").Groups)
	require.EqualValues(t, 1, e.group("orders.fr", "app").Waiting, "what it has of topics is removed topic by topic")
}
