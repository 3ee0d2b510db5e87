package e2e_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// keyed is the data of an event: the nth, from 1, of its partition key.
type keyed struct {
	Key string `json:"key"`
	N   int    `json:"n"`
}

// keyOrder judges what the instances of one app receive.
type keyOrder struct {
	name string

	mu sync.Mutex
	// inHand is the event that some instance works on, done the newest that was handled, by key.
	inHand, done map[string]int
	handled      int
	nacked       int
	faults       []string
}

func newKeyOrder(name string) *keyOrder {
	return &keyOrder{name: name, inHand: make(map[string]int), done: make(map[string]int)}
}

// handle fails one event in twenty. Events of one key must come one at a time, each after the one before was handled.
func (o *keyOrder) handle(d delivery) (int, string) {
	var e keyed
	if err := json.Unmarshal(d.Data, &e); err != nil {
		return http.StatusInternalServerError, err.Error()
	}
	o.mu.Lock()
	if other, taken := o.inHand[e.Key]; taken {
		o.faults = append(o.faults, fmt.Sprintf("%s: event %d of key %s came while event %d was in flight", o.name, e.N, e.Key, other))
	}
	if e.N != o.done[e.Key]+1 {
		o.faults = append(o.faults, fmt.Sprintf("%s: event %d of key %s came after event %d", o.name, e.N, e.Key, o.done[e.Key]))
	}
	o.inHand[e.Key] = e.N
	o.mu.Unlock()

	fails := rand.IntN(20) == 0

	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.inHand, e.Key)
	if fails {
		o.nacked++
		return http.StatusInternalServerError, "try again"
	}
	o.handled++
	o.done[e.Key] = e.N
	return http.StatusOK, ""
}

// Two instances of one app and one of another share a topic of 6,000 events over 50 partition keys; one delivery in
// twenty fails. Within a key and a group, none is lost, none overtakes another, none is in two hands.
func TestPartitionKeysKeepTheirOrder(t *testing.T) {
	t.Parallel()
	const events, keys, bulk = 6_000, 50, 500
	e := newEnv(t)
	shop, billing := newKeyOrder("shop"), newKeyOrder("billing")
	first, second := e.app(shop.handle, subscribe("orders")), e.app(shop.handle, subscribe("orders"))
	other := e.app(billing.handle, subscribe("orders"))
	settings := []string{"backOff", "1ms,3ms,10ms", "maxDeliver", "0"}
	d := e.sidecar("shop-1", "shop", first, settings...)
	e.ready(d, e.sidecar("shop-2", "shop", second, settings...), e.sidecar("billing", "billing", other, settings...))
	e.streams("orders", "shop", 2)
	e.streams("orders", "billing", 1)

	began := time.Now()
	for from := 0; from < events; from += bulk {
		entries := make([]bulkEntry, bulk)
		for i := range entries {
			n := from + i
			e := keyed{Key: strconv.Itoa(n % keys), N: n/keys + 1}
			entries[i] = bulkEntry{ID: strconv.Itoa(n), Event: e, ContentType: "application/json", Metadata: map[string]string{"partitionKey": e.Key}}
		}
		require.NoError(t, e.bulkPublish(d, "orders", entries).OK())
	}
	published := time.Since(began)
	e.settled()

	for _, o := range []*keyOrder{shop, billing} {
		o.mu.Lock()
		require.Empty(t, o.faults[:min(len(o.faults), 10)], "%d faults", len(o.faults))
		require.Equal(t, events, o.handled, "events that %s handled", o.name)
		require.NotZero(t, o.nacked)
		for key, n := range o.done {
			require.Equal(t, events/keys, n, "the newest event of key %s in %s", key, o.name)
		}
		o.mu.Unlock()
	}
	one, two := len(first.received()), len(second.received())
	require.Empty(t, e.deadLetters())
	fmt.Printf("%d events published in %s and handled by two apps in %s: shop failed %d deliveries and billing %d; the shop's instances received %d and %d\n",
		events, published.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), shop.nacked, billing.nacked, one, two)
	require.Greater(t, min(one, two), (one+two)/10, "the smaller of the instances' shares")
}
