package console

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var etagField = regexp.MustCompile(`name="etag" value="([^"]+)"`)

func TestStateIsChangedByItsETag(t *testing.T) {
	e := newEnv(t)
	store, err := e.manager.StateStore(t.Context(), databases.DefaultDatabase, databases.DefaultStateBucket)
	require.NoError(t, err)
	require.Contains(t, e.get("/state").body, "No keys")
	put := func(value string) {
		require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "shop||tea", Value: []byte(value)}}}))
	}
	put(`{"pots":1}`)
	require.Contains(t, e.get("/state?prefix=shop").body, "shop||tea")
	require.Contains(t, e.get("/state?prefix=other").body, "No such key")
	shown := e.get("/state/key?key=shop||tea").body
	require.Contains(t, shown, "&#34;pots&#34;: 1", "laid out")
	form := url.Values{"key": {"shop||tea"}, "etag": {etagField.FindStringSubmatch(shown)[1]}, "value": {`{"pots":3}`}}

	asked := e.send(http.MethodPost, "/state/key/delete", form)
	require.Equal(t, http.StatusOK, asked.StatusCode)
	require.Contains(t, asked.body, "Type <code><bdi>delete</bdi></code>")
	require.Equal(t, form.Get("etag"), etagField.FindStringSubmatch(asked.body)[1], "what is confirmed is what was shown")
	form.Set("confirm", "shop||tea")
	require.Contains(t, e.send(http.MethodPost, "/state/key/delete", form).body, "That was another text")
	require.Contains(t, e.get("/state").body, "shop||tea")

	form.Set("confirm", "delete")
	put(`{"pots":2}`) // somebody else is faster
	for _, change := range []string{"/state/key/delete", "/state/key/set"} {
		got := e.send(http.MethodPost, change, form)
		require.Equal(t, http.StatusConflict, got.StatusCode, change)
		require.Contains(t, got.body, "Somebody else")
	}
	fresh := func() { form.Set("etag", etagField.FindStringSubmatch(e.get("/state/key?key=shop||tea").body)[1]) }
	fresh()
	require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/state/key/set", form).StatusCode)
	item, err := store.Get(t.Context(), "shop||tea")
	require.NoError(t, err)
	require.Equal(t, `{"pots":3}`, string(item.Value))
	fresh()
	require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/state/key/delete", form).StatusCode)
	require.Equal(t, http.StatusNotFound, e.get("/state/key?key=shop||tea").StatusCode)
}

func TestAnEventIsPublishedFollowedAndSkipped(t *testing.T) {
	e := newEnv(t)
	sub, err := e.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "orders", Group: "app", MaxDeliver: 5, BackOff: pubsub.BackOff{longTime * 60}})
	require.NoError(t, err)
	defer sub.Close()
	publish := func(data string) {
		got := e.send(http.MethodPost, "/topic/publish", url.Values{"topic": {"orders"}, "data": {data}, "type": {"order.placed"}})
		require.Equal(t, http.StatusSeeOther, got.StatusCode, got.body)
	}
	publish(`{"n":1}`)
	first, err := sub.Next(t.Context())
	require.NoError(t, err)
	require.Contains(t, e.get("/topic?topic=orders").body, "/event?sequence=1")
	page := e.get("/event?topic=orders&sequence=1").body
	require.Contains(t, page, "in-flight")
	require.Contains(t, page, "order.placed")

	first.Nack("no slot")
	require.Eventually(t, func() bool { return strings.Contains(e.get("/event?topic=orders&sequence=1").body, "Retry now") }, longTime, longTime/10_000)
	of := url.Values{"topic": {"orders"}, "sequence": {"1"}, "group": {"app"}}
	require.Eventually(t, func() bool { return e.send(http.MethodPost, "/event/retry-now", of).StatusCode == http.StatusSeeOther }, longTime, longTime/10_000)
	again, err := sub.Next(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, again.Event.Sequence)
	again.Nack("no slot")
	// Until its failure is written down, it is in flight, and refused with 409.
	require.Eventually(t, func() bool { return e.send(http.MethodPost, "/event/skip", of).StatusCode == http.StatusSeeOther }, longTime, longTime/10_000)
	require.Equal(t, 1, e.dead())
	require.Contains(t, e.get("/event?topic=orders&sequence=1").body, "dead letter 1")

	overview := e.get("/").body
	require.Contains(t, overview, "What needs you")
	require.Contains(t, overview, "/dead-letters?group=app&amp;topic=orders")
}

func TestANewKeyIsSetFoundAndTheBucketRemoved(t *testing.T) {
	e := newEnv(t)
	store, err := e.manager.StateStore(t.Context(), databases.DefaultDatabase, databases.DefaultStateBucket)
	require.NoError(t, err)
	form := url.Values{"key": {"shop||tea"}, "value": {`{"kind":"green"}`}, "ttl": {"600"}}
	require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/state/key/set", form).StatusCode)
	again := e.send(http.MethodPost, "/state/key/set", form)
	require.Equal(t, http.StatusConflict, again.StatusCode)
	require.Contains(t, again.body, "exists already")
	item, err := store.Get(t.Context(), "shop||tea")
	require.NoError(t, err)
	require.False(t, item.Expires.IsZero())
	form.Set("ttl", "soon")
	require.Equal(t, http.StatusBadRequest, e.send(http.MethodPost, "/state/key/set", form).StatusCode)
	from := func(path string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Referer", e.server.URL+path) }
	}
	require.Contains(t, e.send(http.MethodPost, "/state/key/set", form, from("/state")).body, `<a href="/state" data-back>Back</a>`)
	require.Contains(t, e.send(http.MethodPost, "/state/key/set", form, from("/state/key/delete")).body, `<a href="/">To the overview</a>`,
		"where a form was answered there is no page to go back to")

	require.Contains(t, e.get("/state").body, `href="/state?bucket=state&amp;database=dapr&amp;prefix=shop%7C%7C"`, "its app")
	query := "/state/query?query=" + url.QueryEscape(`{"filter":{"EQ":{"kind":"green"}}}`)
	require.Contains(t, e.get(query).body, "shop||tea")
	require.Contains(t, e.get(query).body, "no index served it")
	require.NoError(t, store.AddQueryIndexes("kind"))
	require.Eventually(t, func() bool { return strings.Contains(e.get(query).body, "served by the index on <bdi>kind") }, longTime, time.Millisecond)
	require.Contains(t, e.get("/state").body, "kind</bdi> (complete)")
	wrong := e.get("/state/query?query=" + url.QueryEscape(`{"filter":<`))
	require.Equal(t, http.StatusBadRequest, wrong.StatusCode)
	require.Contains(t, wrong.body, "allowed: an object with filter, sort and page")
	require.Contains(t, wrong.body, `{&#34;filter&#34;:&lt;</textarea>`, "what was typed stays, to be put right")

	require.Contains(t, e.get("/state/idempotency-keys").body, "None is remembered")
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "k", Value: []byte("1")}}, IdempotencyKey: "once"}))
	require.Regexp(t, `<code>[0-9a-f]{64}</code>`, e.get("/state/idempotency-keys").body)

	removal := url.Values{"kind": {"state"}, "bucket": {"state"}}
	require.Contains(t, e.send(http.MethodPost, "/bucket/remove", removal).body, "Type the name")
	require.Contains(t, e.get("/state").body, "shop||tea", "it asks first")
	removal.Set("confirm", "state")
	require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/bucket/remove", removal).StatusCode)
	require.Contains(t, e.get("/state").body, "No keys")
}

func TestATopicIsSeenThroughAndRemoved(t *testing.T) {
	e := newEnv(t)
	sub, err := e.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "orders", Group: "app", MaxDeliver: 7, BackOff: pubsub.BackOff{longTime * 60}, AckWait: longTime})
	require.NoError(t, err)
	got := e.send(http.MethodPost, "/topic/publish", url.Values{"topic": {"orders"}, "data": {"1"}, "raw": {"yes"}, "metadata": {"a=b\r\nc=d=e"}})
	require.Equal(t, http.StatusSeeOther, got.StatusCode, got.body)
	delivery, err := sub.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b", "c": "d=e"}, delivery.Event.Metadata)
	require.Equal(t, "1", string(delivery.Event.Data))
	wrong := e.send(http.MethodPost, "/topic/publish", url.Values{"topic": {"orders"}, "data": {"1"}, "metadata": {"a"}})
	require.Contains(t, wrong.body, "key=value")
	shown := e.get("/topic?topic=orders").body
	require.Contains(t, shown, `data-label="maxDeliver">7<`)
	require.Contains(t, shown, `data-label="ackWait">1m0s<`)
	delivery.Nack("no slot")
	require.Eventually(t, func() bool {
		shown := e.get("/topic?topic=orders").body
		return strings.Contains(shown, "Waiting for another delivery") && strings.Contains(shown, "no slot")
	}, longTime, time.Millisecond)

	removal := url.Values{"topic": {"orders"}}
	require.Contains(t, e.send(http.MethodPost, "/topic/remove", removal).body, "1 consumer group")
	removal.Set("confirm", "orders")
	require.NotEqual(t, http.StatusSeeOther, e.send(http.MethodPost, "/topic/remove", removal).StatusCode, "somebody consumes it")
	sub.Close()
	require.Eventually(t, func() bool {
		return e.send(http.MethodPost, "/topic/remove", removal).StatusCode == http.StatusSeeOther
	}, longTime, time.Millisecond)
	require.Equal(t, http.StatusNotFound, e.get("/topic?topic=orders").StatusCode)
}

// A bucket of state may have the name of the default bucket of events.
func TestStateInABucketNamedPubsub(t *testing.T) {
	e := newEnv(t)
	store, err := e.manager.StateStore(t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(t, err)
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "tea", Value: []byte("1")}}}))
	require.Contains(t, e.get("/state?bucket=pubsub").body, `href="/state/key?bucket=pubsub&amp;database=dapr&amp;key=tea"`)
}
