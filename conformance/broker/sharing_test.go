package broker

import (
	"net/http"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// bulk publishes events by their ids.
func (w *world) bulk(d *harness.Daprd, topic string, ids []string) {
	w.t.Helper()
	entries := make([]bulkEntry, len(ids))
	for i, id := range ids {
		entries[i] = bulkEntry{ID: id, Event: id, ContentType: "application/json", Metadata: map[string]string{"cloudevent.id": id}}
	}
	require.NoError(w.t, w.bulkPublish(d, topic, entries).OK())
}

// An instance that hangs keeps what it has in hand, and no more: the other one gets the rest.
func TestAStuckInstanceDoesNotHoldTheOtherBack(t *testing.T) {
	t.Parallel()
	const events, pending = 200, 4
	w := newWorld(t)
	free := make(chan struct{})
	stuck := w.app(func(delivery) (int, string) { <-free; return http.StatusOK, "" }, subscribe("orders"))
	runs := w.app(nil, subscribe("orders"))
	d := w.sidecar("runs", "shop", runs, "maxAckPending", "4")
	w.ready(d, w.sidecar("stuck", "shop", stuck, "maxAckPending", "4"))
	w.streams("orders", "shop", 2)
	w.bulk(d, "orders", eventIDs(events))
	runs.wait(events - pending)
	w.eventually(func(c *assert.CollectT) {
		require.Equal(c, uint64(pending), w.group("orders", "shop").InHand)
		require.Zero(c, w.group("orders", "shop").Waiting)
	})
	require.Len(t, stuck.received(), 1)
	close(free)
	w.settled()
	require.ElementsMatch(t, eventIDs(events), append(stuck.ids(), runs.ids()...))
	require.Len(t, stuck.received(), pending)
}

// What an instance has in hand when its sidecar ends goes to another one at once, and was not a failed delivery: with
// maxDeliver 1, that would be a dead letter.
func TestARolledOverInstance(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, d *harness.Daprd){
		"that was stopped": func(t *testing.T, d *harness.Daprd) { require.NoError(t, d.Stop()) },
		"that was killed":  func(_ *testing.T, d *harness.Daprd) { d.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events = 40
			w := newWorld(t)
			slow := func(delivery) (int, string) { time.Sleep(20 * time.Millisecond); return http.StatusOK, "" }
			first, second := w.app(slow, subscribe("orders")), w.app(slow, subscribe("orders"))
			settings := []string{"maxDeliver", "1", "ackWait", "1h"}
			old := w.sidecar("old", "shop", first, settings...)
			w.ready(old)
			w.bulk(old, "orders", eventIDs(events))
			first.wait(3)
			require.Greater(t, w.group("orders", "shop").InHand, uint64(1))
			end(t, old)
			w.ready(w.sidecar("new", "shop", second, settings...))
			w.settled()
			require.Empty(t, w.deadLetters())
			require.NotEmpty(t, second.received())
			handled := make(map[string]bool)
			for _, d := range append(first.received(), second.received()...) {
				require.Equal(t, 1, d.count(), "deliveryCount of %s", d.ID)
				handled[d.ID] = true
			}
			require.Len(t, handled, events)
			require.LessOrEqual(t, len(first.received())+len(second.received()), events+1, "only what the app worked on can come twice")
		})
	}
}

// A sidecar that shuts down pauses its subscriptions, and drains what it was sent.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	paused, other := w.client("paused", "consumerID", "paused"), w.client("other", "consumerID", "other")
	mine, theirs := paused.consume("orders", ""), other.consume("orders", "")
	w.streams("orders", "paused", 1)
	w.streams("orders", "other", 1)
	other.publish("orders", "1")
	w.settled()

	_, err := paused.Pause(paused.ctx, &proto.PauseRequest{})
	require.NoError(t, err)
	other.publish("orders", "2", "3")
	w.eventually(func(c *assert.CollectT) {
		require.Zero(c, w.group("orders", "other").Waiting+w.group("orders", "other").InHand)
	})
	g := w.group("orders", "paused")
	require.EqualValues(t, 2, g.Waiting)
	require.Zero(t, g.InHand)
	require.Equal(t, 1, g.Streams)
	_, err = paused.Resume(paused.ctx, &proto.ResumeRequest{})
	require.NoError(t, err)
	w.settled()
	require.Equal(t, []string{"1", "2", "3"}, mine.received())
	require.Equal(t, []string{"1", "2", "3"}, theirs.received())
}
