package e2e_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.app(nil, subscribe("dropped"), subscribe("kept", "deadLetterExpired", "true"))
	publisher := e.sidecar("publisher", "publisher", nil)
	e.ready(publisher)
	for _, topic := range []string{"dropped", "kept"} {
		e.publish(publisher, topic, topic+" short", "ttlInSeconds", "1")
		e.publish(publisher, topic, topic+" long", "ttlInSeconds", "3600")
	}
	published := e.topic("kept").OldestTime
	require.NotNil(t, published)
	// The short ones end while nobody consumes.
	<-time.After(time.Until(published.Add(time.Second)))
	e.ready(e.sidecar("app", "app", a))
	a.wait(2)
	e.settled()
	require.ElementsMatch(t, []string{"dropped long", "kept long"}, a.ids())
	letters := e.dead(1)
	require.Equal(t, pubsub.ReasonExpired, letters[0].Reason)
	require.Contains(t, letters[0].Event.ID, "kept short")
}

func TestEventsAreHeldBackUntilTheirTime(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.app(nil, subscribe("reminders"))
	d := e.sidecar("app", "app", a)
	e.ready(d)
	began := time.Now()
	at := began.Add(3 * time.Second).UTC().Truncate(time.Second)
	e.publish(d, "reminders", "at", "deliverAt", at.Format(time.RFC3339))
	e.publish(d, "reminders", "after", "deliverAfter", "1s")
	e.publish(d, "reminders", "far", "deliverAfter", "1h")
	e.publish(d, "reminders", "now")

	a.wait(3)
	require.ElementsMatch(t, []string{"now", "after", "at"}, a.ids())
	for _, d := range a.received() {
		switch d.ID {
		case "after":
			require.GreaterOrEqual(t, d.At.Sub(began), time.Second)
		case "at":
			require.False(t, d.At.Before(at), "deliverAt %s, came at %s", at, d.At)
		}
	}
	require.EqualValues(t, 1, e.topic("reminders").Delayed, "the one in an hour")

	for metadata, value := range map[string]string{"deliverAt": "tomorrow", "deliverAfter": "-1s", "ttlInSeconds": "soon"} {
		err := d.Publish(t.Context(), pubsubName, "reminders", "x", map[string]string{metadata: value})
		require.ErrorContains(t, err, metadata)
		require.ErrorContains(t, err, value)
		require.ErrorContains(t, err, "allowed")
	}
}

// A subscription's metadata holds for that subscription, and beats the component's.
func TestSubscriptionMetadata(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	fails := func(delivery) (int, string) { return http.StatusInternalServerError, "no" }
	a := e.app(fails, subscribe("once", "maxDeliver", "1"), subscribe("thrice"), subscribe("grouped", "consumerID", "others", "maxDeliver", "2"))
	d := e.sidecar("app", "app", a, "maxDeliver", "3", "backOff", "5ms")
	e.ready(d)
	for _, topic := range []string{"once", "thrice", "grouped"} {
		e.publish(d, topic, topic)
	}
	deliveries := make(map[string]int)
	groups := make(map[string]string)
	for _, l := range e.dead(3) {
		deliveries[l.Topic], groups[l.Topic] = l.Deliveries, l.Group
	}
	require.Equal(t, map[string]int{"once": 1, "thrice": 3, "grouped": 2}, deliveries)
	require.Equal(t, map[string]string{"once": "app", "thrice": "app", "grouped": "others"}, groups)
	require.Len(t, a.received(), 6)
}
