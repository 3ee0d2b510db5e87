package console

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/databases/databasestest"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var (
	manyEvents  = flag.Int("many-events", 20_000, "events in the topic of the test that counts records read")
	manyKeys    = flag.Int("many-keys", 20_000, "keys in the bucket of that test")
	manyLetters = flag.Int("many-letters", 2_000, "dead letters in the bucket of that test")
)

// What a page reads at most, in records: a few pages of lists; the 10,000 dead letters of which the causes are counted, or
// among which an event is looked for whose group has some.
const (
	maxRead     = 2 * admin.MaxPageSize
	maxReadDead = 12 * admin.MaxPageSize
)

// fill makes a topic with many events, most of which a group is owed, dead letters of another, and keys.
func (e *env) fill() {
	t, ctx := e.t, e.t.Context()
	publish := func(topic string, n int, message func(i int) pubsub.Message) {
		const batch = 1000
		for from := 0; from < n; from += batch {
			messages := make([]pubsub.Message, min(batch, n-from))
			for i := range messages {
				messages[i] = message(from + i)
			}
			for _, err := range e.broker.Publish(ctx, topic, messages, pubsub.PublishOptions{}) {
				require.NoError(t, err)
			}
		}
	}
	away, err := e.broker.Subscribe(ctx, pubsub.SubscribeOptions{Topic: "many", Group: "away", DeliverPolicy: pubsub.DeliverAll})
	require.NoError(t, err)
	away.Close()
	publish("many", *manyEvents, func(i int) pubsub.Message {
		m := pubsub.Message{Data: []byte("1")}
		if i%1000 == 0 {
			m.DeliverAt = time.Now().Add(time.Hour)
		}
		return m
	})
	failing, err := e.broker.Subscribe(ctx, pubsub.SubscribeOptions{Topic: "letters", Group: "failing", MaxDeliver: 1, MaxAckPending: 64})
	require.NoError(t, err)
	publish("letters", *manyLetters, func(int) pubsub.Message { return pubsub.Message{Data: []byte("1")} })
	for range *manyLetters {
		d, err := failing.Next(ctx)
		require.NoError(t, err)
		d.Nack("no slot")
	}
	failing.Close()
	store, err := e.manager.StateStore(ctx, databases.DefaultDatabase, databases.DefaultStateBucket)
	require.NoError(t, err)
	for from := 0; from < *manyKeys; from += 1000 {
		var writes []statestore.Write
		for i := from; i < min(from+1000, *manyKeys); i++ {
			writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: fmt.Sprintf("app%d||key-%08d", i%3, i), Value: []byte("1")})
		}
		require.NoError(t, store.Apply(ctx, statestore.Transaction{Writes: writes}))
	}
	require.Eventually(t, func() bool {
		groups, err := admin.CallDeadLetters.Do(ctx, e.console.opts.Service, admin.ListOptions{Limit: 1, After: uint64(*manyLetters - 1)})
		return err == nil && len(groups.DeadLetters) == 1
	}, longTime, time.Millisecond)
}

// Whatever the files hold, a page reads what it shows, and little more: no count is made by walking.
func TestPagesReadABoundedNumberOfRecords(t *testing.T) {
	e := newEnv(t)
	began := time.Now()
	e.fill()
	t.Logf("%d events, %d dead letters and %d keys after %s", *manyEvents, *manyLetters, *manyKeys, time.Since(began).Round(time.Second))
	middle := fmt.Sprint(*manyEvents / 2)
	pages := map[string][]string{
		"/{$}":                 {"/"},
		"/topics":              {"/topics"},
		"/topic":               {"/topic?topic=many", "/topic?topic=letters"},
		"/event":               {"/event?topic=many&sequence=" + middle, "/event?topic=letters&sequence=1"},
		"/event/payload":       {"/event/payload?topic=many&sequence=" + middle},
		"/state":               {"/state", "/state?prefix=app1%7C%7C", "/state?prefix=app1%7C%7Ckey-00005"},
		"/state/key":           {"/state/key?key=app1%7C%7Ckey-00000001"},
		"/state/key/value":     {"/state/key/value?key=app1%7C%7Ckey-00000001"},
		"/dead-letters":        {"/dead-letters", "/dead-letters?topic=letters&group=failing", "/dead-letters?text=nowhere", "/dead-letters?reason=expired"},
		"/dead-letter":         {"/dead-letter?id=1"},
		"/dead-letter/payload": {"/dead-letter/payload?id=1"},
		"/job":                 nil, // of memory only
		// A query that is run reads every value, unless an index serves it: the page says which it was.
		"/state/query":            {"/state/query"},
		"/state/idempotency-keys": {"/state/idempotency-keys"},
	}
	for _, rt := range e.console.table() {
		if rt.method == http.MethodGet && !rt.open {
			require.Contains(t, pages, rt.path, "a page whose reads are counted")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(pages)) {
		for _, target := range pages[path] {
			began := time.Now()
			var got answer
			read := databasestest.RecordsRead(t, e.manager, func() { got = e.get(target) })
			require.Equal(t, http.StatusOK, got.StatusCode, "%s: %s", target, got.body)
			t.Logf("%-45s %6d records, %s", target, read, time.Since(began).Round(time.Millisecond))
			most := maxRead
			if path == "/dead-letters" || strings.Contains(target, "topic=letters") {
				most = maxReadDead
			}
			require.LessOrEqual(t, read, uint64(most), target)
		}
	}
}
