package pubsub_test

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The model is what a group is promised, written down without a broker: which events it is owed, how often each was
// tried, and when it may come again. The broker is free in what the promises leave open, such as which of two streams
// gets an event.
type modelEvent struct {
	data          string
	key           string
	sequence      int       // its place in the log, from 1
	deliverAt     time.Time // zero: at once
	deliveries    int
	interruptions int       // since the last delivery that failed
	notBefore     time.Time // no delivery before it
	surely        time.Time // due without doubt: notBefore and all jitter
	expires       time.Time // zero: never
	inHand        *modelStream
	redriven      bool
	reason        pubsub.Reason // of a dead letter
}

// fresh says that e waits for its first delivery, or its first since it was redriven.
func (e *modelEvent) fresh() bool { return e.deliveries+e.interruptions == 0 }

// expired says that e's time to live has ended: it goes as soon as the broker looks at it.
func (e *modelEvent) expired(now time.Time) bool {
	return e.inHand == nil && !e.expires.IsZero() && !now.Before(e.expires)
}

func (e *modelEvent) due(surely bool) time.Time {
	if surely {
		return e.surely
	}
	return e.notBefore
}

// fails is a delivery or an interruption too much, or one after which e waits.
func (e *modelEvent) fails(g *modelGroup, now time.Time, count *int, reason pubsub.Reason) {
	e.inHand = nil
	if *count++; *count == modelMaxDeliver {
		g.dies(e, reason)
		return
	}
	e.notBefore, e.surely = now.Add(modelBackOff), now.Add(modelBackOff+modelBackOff/10)
}

type modelGroup struct {
	name    string
	ordered bool
	keeps   bool          // what has expired, as dead letters
	removed bool          // until somebody subscribes anew
	owed    []*modelEvent // in publish order, the redriven ones behind what was there
	dead    map[string]*modelEvent
	streams []*modelStream
}

// GoString is how a history names the group.
func (g *modelGroup) GoString() string { return g.name }

type modelStream struct {
	group  *modelGroup
	opened time.Time
	sub    pubsub.Subscription
	hand   []*pubsub.Delivery
}

func (g *modelGroup) options(policy pubsub.DeliverPolicy) pubsub.SubscribeOptions {
	return pubsub.SubscribeOptions{
		Group: g.name, Topic: modelTopic, Ordered: g.ordered, MaxDeliver: modelMaxDeliver,
		BackOff: pubsub.BackOff{modelBackOff}, MaxAckPending: modelPrefetch, DeadLetterExpired: g.keeps, DeliverPolicy: policy,
	}
}

// free reports whether the promises let e go out now; surely whether they demand it.
func (g *modelGroup) free(e *modelEvent, now time.Time, surely bool) bool {
	if e.inHand != nil || now.Before(e.due(surely)) || surely && e.expired(now) {
		return false
	}
	fresh := e.fresh()
	for _, other := range g.owed {
		if other == e || other.expired(now) && !now.Before(other.due(surely)) {
			continue
		}
		before := slices.Index(g.owed, other) < slices.Index(g.owed, e)
		switch {
		case g.ordered && other.inHand != nil,
			g.ordered && fresh && !other.fresh(),
			// What is retried goes out ahead of a redriven event that it has overtaken while it was fresh.
			g.ordered && surely && before && (fresh || !other.fresh()),
			e.key != "" && e.key == other.key && (other.inHand != nil || fresh && !other.fresh() || fresh && before && (e.redriven || !other.redriven)):
			return false
		}
	}
	return true
}

// owe adds an event of the log to what the group is owed.
func (g *modelGroup) owe(e *modelEvent) {
	g.owed = append(g.owed, &modelEvent{data: e.data, key: e.key, sequence: e.sequence, expires: e.expires})
}

// count tells where the events stand that the group is owed: in the log, redriven, or retried.
func (g *modelGroup) count() (waiting, redriven, retrying int) {
	for _, e := range g.owed {
		switch {
		case !e.fresh():
			retrying++
		case e.redriven:
			redriven++
		default:
			waiting++
		}
	}
	return waiting, redriven, retrying
}

// remove forgets all that the group was owed, and its dead letters.
func (g *modelGroup) remove() {
	g.removed, g.owed = true, nil
	clear(g.dead)
}

// find returns the event that a stream has in flight.
func (g *modelGroup) find(d *pubsub.Delivery) *modelEvent {
	at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == dataOf(&d.Event) })
	return g.owed[at]
}

func (g *modelGroup) forget(e *modelEvent) {
	g.owed = slices.DeleteFunc(g.owed, func(o *modelEvent) bool { return o == e })
}

func (g *modelGroup) dies(e *modelEvent, reason pubsub.Reason) {
	g.forget(e)
	e.redriven, e.reason = false, reason
	g.dead[e.data] = e
}

// bury makes a dead letter at once.
func (g *modelGroup) bury(d *pubsub.Delivery, e *modelEvent) {
	d.Bury(pubsub.ReasonTooLarge, "too large")
	g.dies(e, pubsub.ReasonTooLarge)
}

// redrive takes a dead letter behind all that the group is owed, as if it had never been delivered.
func (g *modelGroup) redrive(data string) {
	e := g.dead[data]
	delete(g.dead, data)
	g.owed = append(g.owed, &modelEvent{data: e.data, key: e.key, sequence: e.sequence, redriven: true})
}

// hasDied checks a dead letter. Whether the broker has looked at an event that expired shows here first.
func (g *modelGroup) hasDied(t *rapid.T, d pubsub.DeadLetter, now time.Time) {
	data := dataOf(&d.Event)
	if at := slices.IndexFunc(g.owed, func(e *modelEvent) bool { return e.data == data }); at >= 0 && g.keeps && g.owed[at].expired(now) {
		g.dies(g.owed[at], pubsub.ReasonExpired)
	}
	require.Contains(t, g.dead, data, "a dead letter of group %s", g.name)
	require.Equal(t, g.dead[data].reason, d.Reason, "reason of %s", data)
}

// close ends the streams.
func (g *modelGroup) close() {
	for _, s := range g.streams {
		s.sub.Close()
		s.putBack()
	}
	g.streams = nil
}

// end takes a delivery out of the hand.
func (s *modelStream) end(i int) *pubsub.Delivery {
	d := s.hand[i]
	s.hand = slices.Delete(s.hand, i, i+1)
	return d
}

func (s *modelStream) putBack() {
	for _, e := range s.group.owed {
		if e.inHand == s {
			e.inHand = nil
		}
	}
}
