package pubsub

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// SubscribeOptions describe one stream of deliveries.
type SubscribeOptions struct {
	// Group is the consumer group. Each group gets every event; streams of one group share them.
	Group string
	// Topic may hold the wildcards * and >.
	Topic string
	// MaxDeliver bounds the deliveries of one event before it goes to the dead letters. Zero: no bound.
	MaxDeliver int
	// BackOff is how long to wait before each redelivery.
	BackOff BackOff
	// AckWait is how long one event may take, counted from when it is the oldest that the stream has in flight. Zero: no
	// bound.
	AckWait time.Duration
	// MaxAckPending bounds the events that the stream has in flight. Zero: one.
	MaxAckPending int
	// Ordered holds the group's later events back while one is being retried. It takes effect when any stream of the
	// group asks for it.
	Ordered bool
	// DeliverPolicy is where the group starts if it is new. Empty: DeliverAll.
	DeliverPolicy DeliverPolicy
	// DeadLetterExpired sends events whose time to live has ended to the dead letters instead of dropping them.
	DeadLetterExpired bool
	// Instance says for people whose stream it is.
	Instance string
}

// LateText is the error text of a delivery that was not acknowledged within AckWait.
func (o *SubscribeOptions) LateText() string {
	return fmt.Sprintf("not acknowledged within ackWait %s", o.AckWait)
}

// Check refuses names that are not allowed, and fills in the defaults.
func (o *SubscribeOptions) Check() error {
	if err := checkPattern(o.Topic); err != nil {
		return err
	}
	if err := checkName("consumerID", o.Group); err != nil {
		return err
	}
	if o.MaxAckPending <= 0 {
		o.MaxAckPending = 1
	}
	if o.DeliverPolicy == "" {
		o.DeliverPolicy = DeliverAll
	}
	return nil
}

// subscription is a Subscription of a Broker.
type subscription struct {
	broker *Broker
	opts   SubscribeOptions
	// arrived tells Next of an event; ended is closed by Close; emptied is for Emptied.
	arrived, ended, emptied chan struct{}

	// The broker's lock guards the rest.

	// groups are the stream's, one for each of its topics; turn is whose turn is next, and waitsFor whose turn it is and who
	// reads its events first.
	groups   []*group
	turn     int
	waitsFor *group
	// inFlight are the deliveries that have not ended, the oldest first. Next has returned those up to the number taken.
	inFlight       []*delivery
	given, taken   uint64
	acks           AckClock
	paused, closed bool
	// silent: the time of an event ran out, and the app has not answered anything since then.
	silent bool
	// late are the last deliveries whose time ran out after Next had returned them.
	late []lateDelivery
}

type lateDelivery struct {
	number uint64
	group  *group
	event  *lateEvent
}

func newSubscription(b *Broker, opts SubscribeOptions) *subscription {
	s := &subscription{
		broker:  b,
		opts:    opts,
		arrived: make(chan struct{}, 1),
		ended:   make(chan struct{}),
		emptied: make(chan struct{}, 1),
	}
	s.acks = NewAckClock(b.clock, opts.AckWait, s.checkAckWait)
	return s
}

// Next implements Subscription.
func (s *subscription) Next(ctx context.Context) (*Delivery, error) {
	for {
		s.broker.mu.Lock()
		if s.closed {
			s.broker.mu.Unlock()
			return nil, ErrClosed
		}
		at, _ := s.find(s.taken + 1)
		if at < len(s.inFlight) {
			d := s.inFlight[at]
			s.taken = d.Number
			d.since = s.broker.clock.Now()
			d.group.counts.Delivered(&d.Delivery, &d.history, d.again, d.since)
			if at+1 < len(s.inFlight) {
				signal(s.arrived)
			}
			s.broker.mu.Unlock()
			return &d.Delivery, nil
		}
		s.broker.mu.Unlock()
		select {
		case <-s.arrived:
		case <-s.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Ack implements Subscription.
func (s *subscription) Ack(number uint64) bool {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	return s.answer(number, func(*delivery) Settlement { return Settlement{Outcome: Acked} }) || s.ackLate(number)
}

// Nack implements Subscription.
func (s *subscription) Nack(number uint64, reason string) bool {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	return s.answer(number, func(d *delivery) Settlement { return d.failed(reason) })
}

// Pause implements Subscription.
func (s *subscription) Pause() {
	s.broker.mu.Lock()
	s.paused = true
	s.broker.mu.Unlock()
}

// Resume implements Subscription.
func (s *subscription) Resume() {
	s.broker.mu.Lock()
	s.paused = false
	s.slotFreed()
	s.broker.mu.Unlock()
}

// InFlight implements Subscription.
func (s *subscription) InFlight() int {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	return len(s.inFlight)
}

// Emptied implements Subscription.
func (s *subscription) Emptied() <-chan struct{} { return s.emptied }

// Close implements Subscription.
func (s *subscription) Close() { s.end(false) }

// Interrupt implements Subscription.
func (s *subscription) Interrupt() { s.end(true) }

func (s *subscription) end(interrupted bool) {
	b := s.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.closed {
		return
	}
	s.closed, s.late = true, nil
	close(s.ended)
	s.acks.Stop()
	for first := true; len(s.inFlight) > 0; first = false {
		d := s.inFlight[0]
		s.remove(d)
		if interrupted && first && d.Number <= s.taken {
			d.group.finish(d, s.opts.Interrupted(d.history, b.clock.Now()))
		} else {
			d.group.putBack(d)
		}
	}
	b.detach(s)
}

// consumes reports whether the stream gets events of a topic.
func (s *subscription) consumes(topic string) bool {
	return Matches(s.opts.Topic, topic)
}

// All functions from here are called with the broker's lock held.

// answer ends a delivery that the app has answered, and reports whether it was out.
func (s *subscription) answer(number uint64, end func(*delivery) Settlement) bool {
	s.answered()
	at, found := s.find(number)
	if !found || number > s.taken {
		return false
	}
	d := s.inFlight[at]
	d.finish(end(d))
	return true
}

func (s *subscription) ackLate(number uint64) bool {
	at := slices.IndexFunc(s.late, func(l lateDelivery) bool { return l.number == number })
	if at < 0 {
		return false
	}
	l := s.late[at]
	s.late = slices.Delete(s.late, at, at+1)
	return l.group.ackLate(l.event)
}

// find returns where the delivery of that number is in flight, or would be.
func (s *subscription) find(number uint64) (at int, found bool) {
	if len(s.inFlight) > 0 && s.inFlight[0].Number == number {
		return 0, true
	}
	return slices.BinarySearchFunc(s.inFlight, number, func(d *delivery, number uint64) int {
		return int(int64(d.Number) - int64(number))
	})
}

func (s *subscription) hasRoom() bool {
	most := s.opts.MaxAckPending
	if s.silent {
		most = 1
	}
	return !s.closed && !s.paused && len(s.inFlight) < most
}

// answered follows any answer of the app, also one that comes too late.
func (s *subscription) answered() {
	if s.silent {
		s.silent = false
		s.slotFreed()
	}
}

// slotFreed is for whoever gives the stream room for an event. One that has none gets one whatever the budget says.
func (s *subscription) slotFreed() {
	if len(s.inFlight) == 0 {
		for _, g := range s.groups {
			g.loader.stalled = false
		}
	}
	s.fill()
}

// fill offers the stream's room to its topics in turn. Whose turn it is may read its events first.
func (s *subscription) fill() {
	for refused := 0; refused < len(s.groups) && s.waitsFor == nil && s.hasRoom(); {
		g := s.groups[s.turn%len(s.groups)]
		s.turn++
		switch {
		case g.give(s):
			refused = 0
		case g.loads():
			s.waitsFor = g
		default:
			refused++
		}
	}
}

// add hands a delivery over.
func (s *subscription) add(d *delivery) {
	s.given++
	d.Number, d.Acknowledger = s.given, d
	s.inFlight = append(s.inFlight, d)
	if len(s.inFlight) == 1 {
		s.acks.Restart()
	}
	signal(s.arrived)
}

// remove takes a delivery out of flight, which has ended.
func (s *subscription) remove(d *delivery) {
	at, _ := s.find(d.Number)
	if at == 0 {
		s.inFlight[0] = nil
		s.inFlight = s.inFlight[1:]
	} else {
		s.inFlight = slices.Delete(s.inFlight, at, at+1)
	}
	d.ended = true
	if d.cancel != nil {
		d.cancel()
	}
	switch {
	case len(s.inFlight) == 0:
		signal(s.emptied)
	case at == 0 && !s.closed:
		s.acks.Restart()
	}
}

// checkAckWait fails the oldest event if its time ran out.
func (s *subscription) checkAckWait() {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	if !s.acks.Expired(!s.closed && len(s.inFlight) > 0) {
		return
	}
	late := s.inFlight[0]
	// An app that hangs is not to keep what others could handle, one ackWait after the other.
	s.silent = true
	for i := len(s.inFlight) - 1; i > 0; i-- {
		if d := s.inFlight[i]; d.group.hasAnother(s) {
			s.remove(d)
			d.group.putBack(d)
		}
	}
	for _, g := range s.groups {
		g.deliver()
	}
	end := late.failed(s.opts.LateText())
	if end.Outcome == Retried && late.Number <= s.taken {
		if len(s.late) >= s.opts.MaxAckPending {
			s.late = slices.Delete(s.late, 0, 1)
		}
		s.late = append(s.late, lateDelivery{late.Number, late.group, late.group.expectLate(late)})
	}
	late.finish(end)
}
