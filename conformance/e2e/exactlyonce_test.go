package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// addOne is a handler's work: it reads a counter and writes it with one more, in a transaction that is refused when
// somebody else was faster, and goes under the event's id.
func addOne(ctx context.Context, client dapr.Client, counter string, metadata map[string]string) error {
	for {
		item, err := client.GetState(ctx, storeName, counter, nil)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(item.Value))
		write := &dapr.SetStateItem{
			Key:     counter,
			Value:   []byte(strconv.Itoa(n + 1)),
			Options: &dapr.StateOptions{Concurrency: dapr.StateConcurrencyFirstWrite},
		}
		if item.Etag != "" {
			write.Etag = &dapr.ETag{Value: item.Etag}
		}
		err = client.ExecuteStateTransaction(ctx, storeName, metadata, []*dapr.StateOperation{{Type: dapr.StateOperationTypeUpsert, Item: write}})
		if err == nil {
			return nil
		}
		now, getErr := client.GetState(ctx, storeName, counter, nil)
		if getErr != nil || now.Etag == item.Etag {
			return err // not because somebody else was faster
		}
	}
}

func (e *env) counter(client dapr.Client, key string) int {
	e.t.Helper()
	item, err := client.GetState(e.t.Context(), storeName, key, nil)
	require.NoError(e.t, err)
	n, err := strconv.Atoi("0" + string(item.Value))
	require.NoError(e.t, err)
	return n
}

// The handler writes and then fails, so that the same event comes again and again: by retries, and by a redrive from the
// dead letters. With the event's id as the idempotency key the counter moves by one; without it, by each delivery.
func TestAnEventThatComesThreeTimesMovesACounterByOne(t *testing.T) {
	t.Parallel()
	const maxDeliver = 3
	for _, test := range []struct {
		name string
		keys bool
		want func(deliveries int) int
	}{
		{"under the event's id", true, func(int) int { return 1 }},
		{"without a key", false, func(deliveries int) int { return deliveries }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			var client dapr.Client
			var connected sync.WaitGroup
			connected.Add(1)
			var s *app
			var mended atomic.Bool
			s = e.app(func(d delivery) (int, string) {
				connected.Wait()
				var metadata map[string]string
				if test.keys {
					metadata = map[string]string{"idempotencyKey": d.ID}
				}
				if err := addOne(t.Context(), client, d.ID, metadata); err != nil {
					t.Errorf("handling %s: %v", d.ID, err)
				}
				if d.ID == "doomed" && !mended.Load() || s.times(d.ID) < maxDeliver {
					return http.StatusInternalServerError, ""
				}
				return http.StatusOK, ""
			}, subscribe("orders"))
			d := e.daprd(harness.DaprdOptions{AppPort: s.port}, storeComponent(), pubsubComponent("maxDeliver", strconv.Itoa(maxDeliver), "backOff", "20ms"))
			client = e.sdk(d)
			connected.Done()
			e.ready(d)
			for _, id := range []string{"retried", "doomed"} {
				require.NoError(t, d.Publish(t.Context(), pubsubName, "orders", id, map[string]string{"cloudevent.id": id}))
			}
			letters := e.dead(1)
			e.settled()
			require.Equal(t, maxDeliver, s.times("retried"))
			require.Equal(t, maxDeliver, s.times("doomed"))
			require.Equal(t, test.want(maxDeliver), e.counter(client, "retried"))
			require.Equal(t, test.want(maxDeliver), e.counter(client, "doomed"))

			// Whoever looks into it a day later sends it again, with dapr-bolt and the sidecar restarted since.
			mended.Store(true)
			d.Kill()
			e.restart()
			require.NoError(t, d.Start())
			e.ready(d)
			require.NoError(t, e.bolt.Command(t.Context(), nil, "dead-letters", "redrive", fmt.Sprint(letters[0].ID)))
			e.eventually(func(c *assert.CollectT) { require.Equal(c, maxDeliver+1, s.times("doomed")) })
			e.settled()
			require.Equal(t, test.want(maxDeliver+1), e.counter(client, "doomed"), "after the redrive")
			fmt.Printf("%s: %d deliveries of an event moved its counter by %d, and %d with a redrive by %d\n", test.name,
				s.times("retried"), e.counter(client, "retried"), s.times("doomed"), e.counter(client, "doomed"))
		})
	}
}

// The sidecar copies the metadata of a URL onto every item that it saves.
func TestASaveOfManyItemsUnderOneKeyTakesEffectOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.daprd(harness.DaprdOptions{}, storeComponent())
	e.ready(d)
	client := e.sdk(d)
	save := func(a, b int) {
		r := e.call(d, http.MethodPost, "/v1.0/state/"+storeName+"?metadata.idempotencyKey=event-1",
			[]map[string]any{{"key": "a", "value": a}, {"key": "b", "value": b}})
		require.Equal(t, http.StatusNoContent, r.Status, r.Body)
	}
	save(1, 2)
	save(3, 4)
	require.Equal(t, 1, e.counter(client, "a"))
	require.Equal(t, 2, e.counter(client, "b"))
}

// Two instances of an app, each with its sidecar, handle the same event at the same time: of each event, one call takes
// effect, whoever is first, and everybody hears success. The keys hold over the death of every process.
func TestOfRacingCallsUnderOneKeyOneTakesEffect(t *testing.T) {
	t.Parallel()
	const events, racers = 20, 8
	e := newEnv(t)
	sidecars := []*harness.Daprd{
		e.daprd(harness.DaprdOptions{Name: "first"}, storeComponent(), pubsubComponent()),
		e.daprd(harness.DaprdOptions{Name: "second"}, storeComponent(), pubsubComponent()),
	}
	clients := make([]dapr.Client, len(sidecars))
	for i, d := range sidecars {
		e.ready(d)
		clients[i] = e.sdk(d)
	}
	// Every racer would leave a mark of its own, beside the counter.
	race := func(event int) {
		var group sync.WaitGroup
		for racer := range racers {
			group.Go(func() {
				err := clients[racer%len(clients)].ExecuteStateTransaction(t.Context(), storeName,
					map[string]string{"idempotencyKey": fmt.Sprintf("event-%d", event)},
					[]*dapr.StateOperation{{Type: dapr.StateOperationTypeUpsert, Item: &dapr.SetStateItem{
						Key: fmt.Sprintf("mark-%d-%d", event, racer), Value: []byte("1"),
					}}})
				if err != nil {
					t.Errorf("event %d, racer %d: %v", event, racer, err)
				}
			})
		}
		group.Wait()
	}
	marks := func() (all []string) {
		for event := range events {
			var left []string
			for racer := range racers {
				if key := fmt.Sprintf("mark-%d-%d", event, racer); e.counter(clients[0], key) == 1 {
					left = append(left, key)
				}
			}
			require.Len(t, left, 1, "the marks of event %d", event)
			all = append(all, left...)
		}
		return all
	}
	for event := range events {
		race(event)
	}
	before := marks()

	for _, d := range sidecars {
		d.Kill()
	}
	e.restart()
	for i, d := range sidecars {
		require.NoError(t, d.Start())
		e.ready(d)
		clients[i] = e.sdk(d)
	}
	for event := range events {
		race(event)
	}
	require.Equal(t, before, marks(), "after the restart")

	// A set and a delete on their own take keys, too; a call that fails does not use its key up.
	client, key := clients[0], map[string]string{"idempotencyKey": "alone"}
	require.NoError(t, client.SaveState(t.Context(), storeName, "alone", []byte("1"), nil))
	wrong := client.SaveStateWithETag(t.Context(), storeName, "alone", []byte("2"), "wrong", key)
	require.Error(t, wrong)
	require.NoError(t, client.SaveState(t.Context(), storeName, "alone", []byte("3"), key))
	require.NoError(t, client.SaveState(t.Context(), storeName, "alone", []byte("4"), key))
	require.Equal(t, 3, e.counter(client, "alone"))
	require.NoError(t, client.DeleteState(t.Context(), storeName, "alone", key))
	require.Equal(t, 3, e.counter(client, "alone"), "a delete under a key that was used")
	require.NoError(t, client.DeleteState(t.Context(), storeName, "alone", map[string]string{"idempotencyKey": "delete"}))
	require.Equal(t, 0, e.counter(client, "alone"))
}
