package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A topic over maxBytes refuses publishes and says so; once its events were consumed, it takes them again.
func TestMaxBytes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	publisher := e.sidecar("publisher", "publisher", nil, "maxBytes", "20k")
	e.ready(publisher)
	publish := func(id string) error {
		return publisher.Publish(t.Context(), pubsubName, "logs", strings.Repeat("x", 3000), map[string]string{"cloudevent.id": id})
	}
	accepted := 0
	var refusal error
	for ; refusal == nil; accepted++ {
		require.Less(t, accepted, 10, "nothing was refused")
		refusal = publish(eventID(accepted))
	}
	accepted--
	require.GreaterOrEqual(t, accepted, 4)
	for _, text := range []string{"status 500", "the topic is full", "logs", "maxBytes is 20000"} {
		require.ErrorContains(t, refusal, text)
	}
	require.NoError(t, publish(eventID(0)), "a duplicate needs no room")
	full := e.topic("logs")
	require.EqualValues(t, accepted, full.Stored)
	require.LessOrEqual(t, full.Bytes, int64(20000))

	a := e.app(nil, subscribe("logs"))
	e.ready(e.sidecar("app", "app", a))
	a.wait(accepted)
	e.eventually(func(c *assert.CollectT) { require.NoError(c, publish("later")) })
	a.wait(accepted + 1)
	require.Equal(t, append(eventIDs(accepted), "later"), a.ids())
}

// A bulk publish with a bad entry says which and why, and can be sent again as a whole once it was mended: whatever of
// it was stored the first time is not stored twice.
func TestBulkPublish(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.app(nil, subscribe("orders"))
	d := e.sidecar("app", "app", a)
	e.ready(d)
	entries := make([]bulkEntry, 5)
	for i := range entries {
		entries[i] = bulkEntry{ID: fmt.Sprint(i), Event: i, ContentType: "application/json", Metadata: map[string]string{"cloudevent.id": eventID(i)}}
	}
	entries[4].Metadata["cloudevent.id"] = eventID(3) // a duplicate within the call
	entries[2].Metadata["ttlInSeconds"] = "-5"
	r := e.bulkPublish(d, "orders", entries)
	require.Equal(t, http.StatusInternalServerError, r.Status, "%s", r.Body)
	log := e.log(d)
	require.Contains(t, log+string(r.Body), "ttlInSeconds", "%s", r.Body)

	delete(entries[2].Metadata, "ttlInSeconds")
	require.NoError(t, e.bulkPublish(d, "orders", entries).OK())
	require.NoError(t, e.bulkPublish(d, "orders", entries).OK(), "duplicates succeed")
	e.settled()
	require.ElementsMatch(t, eventIDs(4), a.ids())
}

// Each way to say what makes two events the same one, with events in envelopes that are new each time.
func TestDedupBy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ways := []string{"id", "data", "fields:data.order,data.kind", "none"}
	var components []harness.Component
	for i, by := range ways {
		components = append(components, harness.NewComponent(fmt.Sprint("way-", i), "pubsub.bolt", "bucket", fmt.Sprint("way-", i), "dedupBy", by))
	}
	components = append(components, harness.NewComponent("short", "pubsub.bolt", "bucket", "short", "dedupWindow", "0"))
	d := e.daprd(harness.DaprdOptions{AppID: "publisher"}, components...)
	e.ready(d)
	publish := func(component, topic string, data any, id string) {
		md := map[string]string{"eventID": id}
		if id == "" {
			md = nil
		}
		require.NoError(t, d.Publish(t.Context(), component, topic, data, md))
	}
	order := func(n int, note string) map[string]any {
		return map[string]any{"order": n, "kind": "new", "note": note}
	}
	for component, want := range map[string]struct{ stored, duplicates uint64 }{
		"way-0": {4, 1}, // the id
		"way-1": {3, 2}, // the data
		"way-2": {2, 3}, // two fields of it
		"way-3": {5, 0},
		"short": {5, 0},
	} {
		publish(component, "orders", order(1, "a"), "one")
		publish(component, "orders", order(1, "a"), "one")
		publish(component, "orders", order(1, "a"), "")
		publish(component, "orders", order(1, "b"), "")
		publish(component, "orders", order(2, "a"), "")
		topic := e.topic("orders", "--bucket", component)
		require.Equal(t, want.stored, topic.Stored, component)
		require.Equal(t, want.duplicates, topic.Duplicates, component)
	}
	metrics := e.metrics()
	require.Contains(t, metrics, `dapr_bolt_topic_duplicates_total{bucket="way-2",database="dapr",topic="orders"} 3`)
	require.Contains(t, metrics, `dapr_bolt_topic_duplicates_total{bucket="way-3",database="dapr",topic="orders"} 0`)

	err := d.Publish(t.Context(), "way-2", "orders", map[string]any{"order": 1}, nil)
	require.ErrorContains(t, err, "without data.kind")
	require.ErrorContains(t, err, "fields:data.order,data.kind")
	// A raw payload has no id: it is stored each time, with one warning for the topic.
	for range 3 {
		r, err := d.Call(t.Context(), http.MethodPost, "/v1.0/publish/way-0/raw?metadata.rawPayload=true", []byte("raw"), "Content-Type", "text/plain")
		require.NoError(t, err)
		require.NoError(t, r.OK())
	}
	require.EqualValues(t, 3, e.topic("raw", "--bucket", "way-0").Stored)
	require.Equal(t, 1, strings.Count(e.log(e.bolt), "an event without an id is not deduplicated"))
}

func (e *env) metrics() string {
	e.t.Helper()
	r, err := harness.Call(e.t.Context(), http.MethodGet, "http://"+e.bolt.HTTPAddress+"/metrics", nil)
	require.NoError(e.t, err)
	return string(r.Body)
}

func (e *env) log(p interface{ LogPath() string }) string {
	e.t.Helper()
	raw, err := os.ReadFile(p.LogPath())
	require.NoError(e.t, err)
	return string(raw)
}
