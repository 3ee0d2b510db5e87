package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The app is told of the delivery in HTTP headers; a handler that fails gets the event again; one that never succeeds
// finds it, with its own words, in the dead letters.
func TestAFailingHandlerGetsTheEventAgain(t *testing.T) {
	t.Parallel()
	const failures, maxDeliver = 2, 4
	e := newEnv(t)
	a := e.app(func(d delivery) (int, string) {
		switch {
		case d.ID == "doomed":
			return http.StatusInternalServerError, "the warehouse burnt down"
		case d.ID == "retried" && d.count() <= failures:
			return http.StatusServiceUnavailable, "not yet"
		default:
			return http.StatusOK, `{"status":"SUCCESS"}`
		}
	}, subscribe("orders"))
	d := e.sidecar("shop", "shop", a, "maxDeliver", strconv.Itoa(maxDeliver), "backOff", "20ms")
	e.ready(d)
	began := time.Now().Add(-time.Second)
	for _, id := range []string{"fine", "retried", "doomed"} {
		e.publish(d, "orders", id)
	}
	letters := e.dead(1)
	e.settled()

	got := a.received()
	require.Equal(t, map[string]int{"fine": 1, "retried": failures + 1, "doomed": maxDeliver}, a.byID(), "deliveries by event")
	counts := make(map[string]int)
	sequences := make(map[string]string)
	for _, d := range got {
		counts[d.ID]++
		require.Equal(t, counts[d.ID], d.count(), "header deliveryCount of %s: %v", d.ID, d.Header)

		sequence := d.Header.Get("sequence")
		require.NotZero(t, number(sequence), "header sequence of %s: %v", d.ID, d.Header)
		if first, again := sequences[d.ID]; again {
			require.Equal(t, first, sequence, "header sequence of %s, delivered again", d.ID)
		}
		sequences[d.ID] = sequence

		published, err := time.Parse(time.RFC3339Nano, d.Header.Get("publishTime"))
		require.NoError(t, err, "header publishTime of %s: %v", d.ID, d.Header)
		require.WithinRange(t, published, began, time.Now().Add(time.Second))
	}
	require.Less(t, number(sequences["fine"]), number(sequences["retried"]))
	require.Less(t, number(sequences["retried"]), number(sequences["doomed"]))

	letter := letters[0]
	require.Equal(t, "orders", letter.Topic)
	require.Equal(t, "shop", letter.Group)
	require.Equal(t, maxDeliver, letter.Deliveries)
	require.Contains(t, letter.Event.ID, "doomed")
	require.Contains(t, letter.LastError, "the warehouse burnt down", "the app's own words")
	require.Contains(t, letter.LastError, "500")
	fmt.Printf("dead letter: %d deliveries of %s to %s, last error: %s\n", letter.Deliveries, letter.Event.ID, letter.Group, letter.LastError)
}

// A handler that is slower than ackWait, and succeeds, has handled its event.
func TestASuccessAfterAckWaitCounts(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	free := make(chan struct{})
	a := e.app(func(d delivery) (int, string) {
		if d.ID == "slow" {
			<-free
		}
		return http.StatusOK, ""
	}, subscribe("orders"))
	d := e.sidecar("shop", "shop", a, "ackWait", "1s", "backOff", "1h", "ordered", "true")
	e.ready(d)
	e.publish(d, "orders", "slow")
	e.publish(d, "orders", "behind")
	e.eventually(func(c *assert.CollectT) {
		require.EqualValues(c, 1, e.group("orders", "shop").Retrying)
	})
	close(free)
	e.settled()
	require.Equal(t, []string{"slow", "behind"}, a.ids())
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

// An app that is down, with its sidecar or without, misses nothing.
func TestEventsWaitForAnAppThatIsDown(t *testing.T) {
	t.Parallel()
	const events = 20
	e := newEnv(t)
	a := e.app(nil, subscribe("orders"))
	publisher := e.sidecar("publisher", "publisher", nil)
	d := e.sidecar("shop", "shop", a, "maxDeliver", "0", "backOff", "20ms")
	e.ready(d, publisher)
	e.publish(publisher, "orders", "before")
	a.wait(1)
	e.settled() // an app that goes before it has answered gets the event again
	want := map[string]int{"before": 1}
	publish := func(prefix string) {
		for i := range events {
			id := fmt.Sprintf("%s-%d", prefix, i)
			want[id] = 1
			e.publish(publisher, "orders", id)
		}
	}

	a.stop()
	publish("app down")
	// The sidecar has tried, and was told that nobody listens.
	e.eventually(func(c *assert.CollectT) {
		require.Positive(c, e.group("orders", "shop").Retrying, "events that wait to be tried again")
	})
	require.Len(t, a.received(), 1)
	a.start()
	e.settled()
	require.Equal(t, want, a.byID(), "when the app is back")
	require.True(t, slices.ContainsFunc(a.received(), func(d delivery) bool { return d.count() > 1 }), "an event that was tried while the app was down")

	a.stop()
	d.Kill()
	e.streams("orders", "shop", 0)
	publish("sidecar down")
	require.Len(t, a.received(), 1+events)
	a.start()
	require.NoError(t, d.Start())
	e.ready(d)
	a.wait(1 + 2*events)
	e.settled()
	require.Equal(t, want, a.byID(), "when the sidecar is back as well")
	for _, got := range a.received()[1+events:] {
		require.Equal(t, 1, got.count(), "nobody had %s before", got.ID)
	}
}

// After a crash the sidecar dials again and calls Init no more; what Init said must still hold.
func TestTheSidecarWorksOnWhenTheProcessWasKilled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.sidecar("shop", "shop", nil, "database", "events", "maxBytes", "100k")
	e.ready(d)
	initialized := e.remembered()
	const states = "/v1.0/state/" + storeName
	for life := range 3 {
		key := fmt.Sprintf("life-%d", life)
		require.NoError(t, e.call(d, http.MethodPost, states, []map[string]any{{"key": key, "value": life}}).OK())
		e.publish(d, "orders", key)
		e.restart()
		// How long the runtime's own gRPC connection waits between attempts is not ours to say: a second or so.
		began := time.Now()
		e.eventually(func(c *assert.CollectT) {
			r, err := d.Call(t.Context(), http.MethodGet, states+"/"+key, nil)
			require.NoError(c, err)
			require.NoError(c, r.OK())
			require.Equal(c, strconv.Itoa(life), string(r.Body))
		})
		fmt.Printf("kill %d: state was there for the same sidecar %s after dapr-bolt was ready again\n", life+1, time.Since(began).Round(time.Millisecond))
		e.eventually(func(c *assert.CollectT) {
			require.NoError(c, d.Publish(t.Context(), pubsubName, "orders", key, map[string]string{"cloudevent.id": key + "-again"}))
		})
		// An event with the id of one before the kill is the same event.
		e.publish(d, "orders", key)
	}
	require.Equal(t, initialized, e.remembered(), "what Init said: nobody called it again")

	topics := e.topics("--database", "events")
	require.Len(t, topics, 1)
	require.EqualValues(t, 6, topics[0].Stored, "events in the database that Init named")
	require.Empty(t, e.topics("--database", "dapr"), "events in the default database")
	r := e.call(d, http.MethodPost, "/v1.0/publish/"+pubsubName+"/orders", []byte(fiveMiB[:200<<10]), "Content-Type", "text/plain")
	require.Equal(t, http.StatusInternalServerError, r.Status)
	require.Contains(t, string(r.Body), "full", "the limit that Init named")
}

// remembered is what dapr-bolt keeps of Init for the time after a crash.
func (e *env) remembered() (all map[string]any) {
	e.t.Helper()
	raw, err := os.ReadFile(filepath.Join(e.bolt.DataDir, "sidecars.json"))
	require.NoError(e.t, err)
	require.NoError(e.t, json.Unmarshal(raw, &all))
	return all
}
