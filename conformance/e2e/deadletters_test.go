package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The life of a dead letter, through the command line.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	const events = 12
	e := newEnv(t)
	var mended atomic.Bool
	a := e.app(func(d delivery) (int, string) {
		if mended.Load() {
			return http.StatusOK, ""
		}
		return http.StatusTeapot, "no coffee for " + d.ID
	}, subscribe("orders"), subscribe("parcels"))
	other := e.app(nil, subscribe("orders"))
	d := e.sidecar("shop", "shop", a, "maxDeliver", "2", "backOff", "5ms")
	e.ready(d, e.sidecar("billing", "billing", other))
	e.streams("orders", "billing", 1)
	e.bulk(d, "orders", eventIDs(events))
	e.publish(d, "parcels", "parcel")
	all := e.dead(events + 1)

	// Pages and filters.
	first := e.deadLetters("--limit", "5")
	require.Equal(t, all[:5], first)
	require.Equal(t, all[5:10], e.deadLetters("--limit", "5", "--after", fmt.Sprint(first[4].ID)))
	parcels := e.deadLetters("--topic", "parcels")
	require.Len(t, parcels, 1)
	require.Len(t, e.deadLetters("--group", "shop"), events+1)
	require.Empty(t, e.deadLetters("--group", "billing"), "each group has its own")
	require.Len(t, e.deadLetters("--text", "coffee for "+eventID(7)), 1)
	require.Empty(t, e.deadLetters("--since", time.Now().Add(time.Hour).Format(time.RFC3339)))
	require.Len(t, e.deadLetters("--since", "1h"), events+1)

	var shown admin.DeadLetter
	require.NoError(t, e.bolt.Command(t.Context(), &shown, "dead-letters", "show", fmt.Sprint(parcels[0].ID)))
	require.Equal(t, pubsub.ReasonMaxDeliver, shown.Reason)
	require.Equal(t, 2, shown.Deliveries)
	require.Len(t, shown.Attempts, 2)
	require.True(t, shown.Attempts[0].At.Before(shown.Attempts[1].At))
	require.Contains(t, shown.LastError, "no coffee for parcel")
	require.Contains(t, shown.LastError, "418")
	var event struct{ Data string }
	require.NoError(t, json.Unmarshal(shown.Event.Data, &event))
	require.Equal(t, "parcel", event.Data)

	// One, while the app still fails: it dies again, and it is told that it was sent back.
	redrive := func(args ...string) (r admin.RedriveResult) {
		require.NoError(t, e.bolt.Command(t.Context(), &r, append([]string{"dead-letters", "redrive"}, args...)...))
		return r
	}
	again := all[3]
	require.Equal(t, []uint64{again.ID}, redrive(fmt.Sprint(again.ID)).Redriven)
	e.eventually(func(c *assert.CollectT) {
		letters := e.deadLetters("--text", again.Event.ID)
		require.Len(c, letters, 1)
		require.Equal(c, 1, letters[0].Redriven)
		require.Equal(c, 2, letters[0].Deliveries, "the count began anew")
		require.Equal(c, again.Event.Sequence, letters[0].Event.Sequence)
	})
	require.Len(t, e.deadLetters(), events+1)
	require.Error(t, e.bolt.Command(t.Context(), nil, "dead-letters", "redrive", "4711"))

	// All of one topic, at a rate, to a mended app: to that group only, at the end of its order.
	mended.Store(true)
	received, billing := len(a.received()), len(other.received())
	began := time.Now()
	require.Len(t, redrive("--all", "--topic", "orders", "--rate", "4/s").Redriven, events)
	require.GreaterOrEqual(t, time.Since(began), 2*time.Second, "12 at 4 a second")
	e.settled()
	require.Len(t, other.received(), billing)
	require.ElementsMatch(t, eventIDs(events), a.ids()[received:])
	for _, d := range a.received()[received:] {
		require.Equal(t, 1, d.count())
	}

	// The last one is purged, but not by mistake.
	require.ErrorContains(t, e.bolt.Command(t.Context(), nil, "dead-letters", "purge", "--all"), "--yes")
	require.Len(t, e.deadLetters(), 1)
	var purged admin.PurgeResult
	require.NoError(t, e.bolt.Command(t.Context(), &purged, "dead-letters", "purge", "--all", "--yes"))
	require.Equal(t, 1, purged.Purged)
	require.Empty(t, e.deadLetters())
}

// Killed again and again while dead letters are sent back, and while they come back, each of them is in one place.
func TestNoDeadLetterIsLostBetweenTheTwoPlaces(t *testing.T) {
	t.Parallel()
	const events, kills = 400, 13
	e := newEnv(t)
	settings := []string{"consumerID", "shop", "maxDeliver", "1"}
	c := e.groupClient("shop", settings...)
	c.publish("orders", eventIDs(events)...)
	failing := c.consume("orders", "no")
	e.dead(events)
	failing.stop()

	client := e.admin()
	cuts := 0
	for kill := range kills {
		// In every other life they come back at once.
		if kill%2 == 1 {
			failing = e.groupClient("shop", settings...).consume("orders", "no")
		}
		ids := make([]uint64, 0, events)
		for _, l := range e.deadLetters("--all") {
			ids = append(ids, l.ID)
		}
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		ctx, cancel := context.WithCancel(t.Context())
		var redriven atomic.Int64
		var group sync.WaitGroup
		for worker := range 3 {
			group.Go(func() {
				for i := worker; i < len(ids) && ctx.Err() == nil; i += 3 {
					if _, err := admin.CallRedrive.Ask(ctx, client, admin.IDsRequest{IDs: ids[i : i+1]}); err != nil {
						return
					}
					redriven.Add(1)
				}
			})
		}
		enough := int64(rand.IntN(max(len(ids)/2, 1)))
		for redriven.Load() < enough && redriven.Load() < int64(len(ids)) {
			<-time.After(time.Millisecond)
		}
		e.bolt.Kill()
		cancel()
		group.Wait()
		if redriven.Load() < int64(len(ids)) {
			cuts++
		}
		if kill%2 == 1 {
			failing.stop()
		}
		require.NoError(t, e.bolt.Restart(t.Context()))
		e.groupClient("shop", settings...) // opens the database
		g := e.group("orders", "shop")
		require.Zero(t, g.InFlight+g.Retrying)
		require.EqualValues(t, events, g.Waiting+g.Dead, "after kill %d: %+v", kill, g)
	}

	before := e.deadLetters("--all")
	acking := e.groupClient("shop", settings...).consume("orders", "")
	e.settled()
	ids := acking.received()
	for _, l := range before {
		ids = append(ids, l.Event.ID)
	}
	require.ElementsMatch(t, eventIDs(events), ids, "delivered or dead, and not both")
	require.Positive(t, cuts, "some kill must come in the middle")
	fmt.Printf("%d kills, %d of them in the middle of redrives: of %d dead letters, %d were sent back and delivered, %d are there\n",
		kills, cuts, events, len(acking.received()), len(before))
}
