package component

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// effect is what one metadata key of the pub/sub changes for those who publish and consume.
type effect struct {
	value string
	// shown fails unless the key has the value.
	shown func(e *effectTest)
}

type effectTest struct {
	*house
	t     *testing.T
	clock *clockwork.FakeClock
	bus   *sidecar
	// pull opens a stream of topic t.
	pull func() *stream
	// Where to look, and for which group.
	database, bucket, group string
}

func (e *effectTest) publish(data string, md ...string) {
	e.t.Helper()
	require.NoError(e.t, e.bus.publish("t", data, md...))
}

func (e *effectTest) topic() (found pubsub.TopicStats) {
	e.t.Helper()
	broker, err := e.manager.Broker(e.t.Context(), e.database, e.bucket)
	require.NoError(e.t, err)
	all, err := broker.Stats(e.t.Context(), "", "", 0)
	require.NoError(e.t, err)
	if len(all) > 0 {
		found = all[0]
	}
	return found
}

// becomes waits until the group has so many events waiting, in flight, delayed and dead.
func (e *effectTest) becomes(waiting, inHand, delayed, dead uint64) {
	e.t.Helper()
	require.EventuallyWithT(e.t, func(c *assert.CollectT) {
		groups := e.topic().Groups
		require.Len(c, groups, 1)
		g := groups[0]
		require.Equal(c, e.group, g.Group)
		require.Equal(c, []uint64{waiting, inHand, delayed, dead}, []uint64{g.Waiting, g.InFlight, g.Retrying, g.Dead})
	}, patience, time.Millisecond)
}

var effects = map[string]effect{
	"database": {"other", func(e *effectTest) {
		e.database = "other"
		e.publish("1")
		require.FileExists(e.t, filepath.Join(e.dir, "data", "other.db"))
		require.EqualValues(e.t, 1, e.topic().Stored)
	}},
	"bucket": {"other", func(e *effectTest) {
		e.publish("1")
		require.Zero(e.t, e.topic().Stored)
		e.bucket = "other"
		require.EqualValues(e.t, 1, e.topic().Stored)
	}},
	"dedupBy": {"data", func(e *effectTest) {
		e.publish("same", "eventID", "1")
		e.publish("same", "eventID", "2")
		require.EqualValues(e.t, 1, e.topic().Stored)
	}},
	"dedupWindow": {"2s", func(e *effectTest) {
		e.publish("1", "eventID", "same")
		e.clock.Advance(time.Second)
		e.publish("2", "eventID", "same")
		require.EqualValues(e.t, 1, e.topic().Stored)
		e.clock.Advance(time.Second)
		e.publish("3", "eventID", "same")
		require.EqualValues(e.t, 2, e.topic().Stored)
	}},
	"maxAge": {"1h", func(e *effectTest) {
		s := e.pull()
		e.publish("handled")
		s.ack(s.next().GetId())
		s.cancel()
		e.becomes(0, 0, 0, 0)
		e.publish("1")
		e.becomes(1, 0, 0, 0)
		// A sweep that is under way begins its wait for the next one when it is done.
		require.Eventually(e.t, func() bool {
			e.clock.Advance(time.Hour)
			return groupStats(e.t, e.house, "t", e.group).Dead == 1
		}, patience, time.Millisecond)
		e.becomes(0, 0, 0, 1)
	}},
	"maxBytes": {"1k", func(e *effectTest) {
		require.ErrorContains(e.t, e.bus.publish("t", strings.Repeat("x", 1000)), "maxBytes is 1000")
		e.publish("small")
	}},
	"consumerID": {"other", func(e *effectTest) {
		e.group = "other"
		e.pull()
		e.becomes(0, 0, 0, 0)
	}},
	"maxDeliver": {"1", func(e *effectTest) {
		s := e.pull()
		e.publish("1")
		s.nack(s.next().GetId(), "no")
		e.becomes(0, 0, 0, 1)
	}},
	"backOff": {"0", func(e *effectTest) {
		s := e.pull()
		e.publish("1")
		s.nack(s.next().GetId(), "no")
		require.Equal(e.t, "2", s.next().GetMetadata()["deliveryCount"])
	}},
	"ackWait": {"2s", func(e *effectTest) {
		s := e.pull()
		e.publish("1")
		s.next()
		e.clock.Advance(time.Second)
		e.becomes(0, 1, 0, 0)
		e.clock.Advance(time.Second)
		e.becomes(0, 0, 1, 0)
	}},
	"maxAckPending": {"1", func(e *effectTest) {
		s := e.pull()
		e.publish("1")
		e.publish("2")
		first := s.next()
		e.becomes(1, 1, 0, 0)
		s.ack(first.GetId())
		require.Equal(e.t, "2", string(s.next().GetData()))
	}},
	"ordered": {"true", func(e *effectTest) {
		s := e.pull()
		e.publish("1")
		e.publish("2")
		s.nack(s.next().GetId(), "no")
		e.becomes(1, 0, 1, 0)
		e.clock.Advance(2 * time.Second)
		require.Equal(e.t, "1", string(s.next().GetData()))
	}},
	"deliverPolicy": {"new", func(e *effectTest) {
		e.publish("old")
		s := e.pull()
		e.becomes(0, 0, 0, 0)
		e.publish("new")
		require.Equal(e.t, "new", string(s.next().GetData()))
	}},
	"deadLetterExpired": {"true", func(e *effectTest) {
		e.publish("1", "ttlInSeconds", "1")
		e.clock.Advance(time.Second)
		e.pull()
		e.becomes(0, 0, 0, 1)
	}},
}

// Every line of the metadata reference changes something that a publisher or a consumer can see, and those of a
// subscription do so there as well. Those that lead to servers have theirs in conformance/cluster.
func TestEveryKeyHasItsEffect(t *testing.T) {
	ofFile := slices.Concat(fieldsOf(publisherFields), SubscriptionMetadata())
	require.Len(t, effects, len(ofFile))
	run := func(t *testing.T, key string, component, subscription []string) {
		clock := clockwork.NewFakeClock()
		h := newHouse(t, func(h *house) { h.clock = clock })
		e := &effectTest{house: h, t: t, clock: clock, database: databases.DefaultDatabase, bucket: databases.DefaultPubSubBucket, group: "app"}
		if key != "consumerID" || len(subscription) > 0 {
			component = append(component, "consumerID", "app")
		}
		e.bus = h.bus("a", component...)
		e.pull = func() *stream { return e.bus.pull(t, "t", subscription...) }
		effects[key].shown(e)
	}
	for _, f := range ofFile {
		t.Run(f.Name, func(t *testing.T) { run(t, f.Name, []string{f.Name, effects[f.Name].value}, nil) })
	}
	for _, f := range SubscriptionMetadata() {
		t.Run(f.Name+" of a subscription", func(t *testing.T) { run(t, f.Name, nil, []string{f.Name, effects[f.Name].value}) })
	}
}

// An event that was stored under other limits goes to the dead letters at once: no delivery could carry it.
func TestAnEventThatBecameTooLargeIsADeadLetter(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	broker, err := h.manager.Broker(t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(t, err)
	s := c.pull(t, "t")
	huge := pubsub.Message{Data: make([]byte, receiveLimit), EventID: "huge"}
	require.NoError(t, broker.Publish(t.Context(), "t", []pubsub.Message{huge}, pubsub.PublishOptions{})[0])
	require.NoError(t, c.publish("t", "small"))
	require.Equal(t, "small", string(s.next().GetData()), "the stream goes on")
	var dead []pubsub.DeadLetter
	require.Eventually(t, func() bool {
		dead, _, err = broker.DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
		return err == nil && len(dead) == 1
	}, patience, time.Millisecond)
	require.Equal(t, pubsub.ReasonTooLarge, dead[0].Reason)
	require.Contains(t, dead[0].LastError(), "too large")
	require.Equal(t, "huge", dead[0].Event.ID)
}
