package e2e_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// An instance that hangs keeps what it has in flight, and no more: the other one gets the rest.
func TestAStuckInstanceDoesNotHoldTheOtherBack(t *testing.T) {
	t.Parallel()
	const events, pending = 200, 4
	e := newEnv(t)
	free := make(chan struct{})
	stuck := e.app(func(delivery) (int, string) { <-free; return http.StatusOK, "" }, subscribe("orders"))
	runs := e.app(nil, subscribe("orders"))
	d := e.sidecar("runs", "shop", runs, "maxAckPending", "4")
	e.ready(d, e.sidecar("stuck", "shop", stuck, "maxAckPending", "4"))
	e.streams("orders", "shop", 2)
	e.bulk(d, "orders", eventIDs(events))
	runs.wait(events - pending)
	e.eventually(func(c *assert.CollectT) {
		require.Equal(c, uint64(pending), e.group("orders", "shop").InFlight)
		require.Zero(c, e.group("orders", "shop").Waiting)
	})
	require.Len(t, stuck.received(), 1)
	close(free)
	e.settled()
	require.ElementsMatch(t, eventIDs(events), append(stuck.ids(), runs.ids()...))
	require.Len(t, stuck.received(), pending)
}

// What an instance has in flight when its sidecar ends goes to another one at once and in its order, and was not a failed
// delivery: with maxDeliver 1, that would be a dead letter.
func TestARolledOverInstance(t *testing.T) {
	t.Parallel()
	// release lets the app answer, for which a sidecar that is stopped waits.
	for name, end := range map[string]func(e *env, d *harness.Daprd, release func()){
		"that was stopped": func(e *env, d *harness.Daprd, release func()) {
			stopped := make(chan error, 1)
			go func() { stopped <- d.Stop() }()
			e.eventually(func(c *assert.CollectT) { require.Contains(c, e.log(d), "Shutting down component pubsub") })
			release()
			require.NoError(e.t, <-stopped)
		},
		"that was killed": func(_ *env, d *harness.Daprd, release func()) {
			d.Kill()
			release()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events, handled = 40, 3
			e := newEnv(t)
			free := make(chan struct{})
			var came atomic.Int64
			first := e.app(func(delivery) (int, string) {
				if came.Add(1) >= handled {
					<-free // while its sidecar is at its end
				}
				return http.StatusOK, ""
			}, subscribe("orders"))
			second := e.app(nil, subscribe("orders"))
			settings := []string{"maxDeliver", "1", "ackWait", "1h", "backOff", "1h"}
			old := e.sidecar("old", "shop", first, settings...)
			e.ready(old)
			e.bulk(old, "orders", eventIDs(events))
			first.wait(handled)
			e.eventually(func(c *assert.CollectT) {
				g := e.group("orders", "shop")
				require.EqualValues(c, events-handled+1, g.Waiting+g.InFlight, "what was answered has come through")
				require.Greater(c, g.InFlight, uint64(1))
			})
			end(e, old, func() { close(free) })
			e.ready(e.sidecar("new", "shop", second, settings...))
			e.settled()
			require.Empty(t, e.deadLetters())
			require.NotEmpty(t, second.received())
			require.True(t, slices.IsSortedFunc(second.received(), func(a, b delivery) int { return strings.Compare(a.ID, b.ID) }))
			ids := make(map[string]bool)
			for _, d := range append(first.received(), second.received()...) {
				require.Equal(t, 1, d.count(), "deliveryCount of %s", d.ID)
				ids[d.ID] = true
			}
			require.Len(t, ids, events)
			require.LessOrEqual(t, len(first.received())+len(second.received()), events+1, "only what the app worked on can come twice")
		})
	}
}

// A sidecar that shuts down pauses its subscriptions, and drains what it was sent.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	paused, other := e.groupClient("paused", "consumerID", "paused"), e.groupClient("other", "consumerID", "other")
	mine, theirs := paused.consume("orders", ""), other.consume("orders", "")
	e.streams("orders", "paused", 1)
	e.streams("orders", "other", 1)
	other.publish("orders", "1")
	e.settled()

	_, err := paused.PubSub.Pause(t.Context(), &proto.PauseRequest{})
	require.NoError(t, err)
	other.publish("orders", "2", "3")
	e.eventually(func(c *assert.CollectT) {
		require.Zero(c, e.group("orders", "other").Waiting+e.group("orders", "other").InFlight)
	})
	g := e.group("orders", "paused")
	require.EqualValues(t, 2, g.Waiting)
	require.Zero(t, g.InFlight)
	require.Equal(t, 1, g.Streams)
	_, err = paused.PubSub.Resume(t.Context(), &proto.ResumeRequest{})
	require.NoError(t, err)
	e.settled()
	require.Equal(t, []string{"1", "2", "3"}, mine.received())
	require.Equal(t, []string{"1", "2", "3"}, theirs.received())
}
