package natsbroker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// subscription is a Subscription of a Broker.
type subscription struct {
	broker *Broker
	opts   pubsub.SubscribeOptions
	// arrived tells Next of an event; emptied is for Emptied; ctx ends with Close.
	arrived, emptied chan struct{}
	ctx              context.Context
	cancel           context.CancelFunc
	// timings are the group's.
	timings pubsub.Timings

	mu sync.Mutex
	// fed are the consumers that bring events, by name.
	fed map[string]struct{}
	// inFlight are the deliveries that have not ended, the oldest first. Next has returned those up to the number taken.
	inFlight     []*delivery
	given, taken uint64
	// waiting came when there was no room, since all consumers are asked at once: one each at most, beside the room.
	waiting []*delivery
	// settling counts the deliveries that have ended, which the server does not know yet.
	settling int
	// room is closed when there may be more of it.
	room           chan struct{}
	acks           pubsub.AckClock
	paused, closed bool
	// silent: the time of an event ran out, and the app has not answered anything since then.
	silent bool
	// late are the last deliveries whose time ran out after Next had returned them, and whose events are to be delivered again,
	// without the data.
	late []*delivery
}

// Subscribe implements pubsub.Service.
func (b *Broker) Subscribe(ctx context.Context, opts pubsub.SubscribeOptions) (pubsub.Subscription, error) {
	if err := opts.Check(); err != nil {
		return nil, err
	}
	if b.isClosed() {
		return nil, pubsub.ErrClosed
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.ensureOwed(ctx, opts); err != nil {
		return nil, err
	}
	s := &subscription{
		broker:  b,
		opts:    opts,
		timings: b.opts.Timings(opts.Group),
		arrived: make(chan struct{}, 1),
		emptied: make(chan struct{}, 1),
		room:    make(chan struct{}),
		fed:     map[string]struct{}{},
	}
	s.acks = pubsub.NewAckClock(b.clock, opts.AckWait, s.checkAckWait)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, pubsub.ErrClosed
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	b.streams[s] = struct{}{}
	for _, topic := range b.topics {
		s.attach(topic)
	}
	return s, nil
}

// ensureOwed makes sure that the group of a stream is owed what comes.
func (b *Broker) ensureOwed(ctx context.Context, opts pubsub.SubscribeOptions) error {
	if !pubsub.IsPattern(opts.Topic) {
		if err := b.ensureTopic(ctx, topicRecord{Topic: opts.Topic}, false); err != nil {
			return err
		}
	}
	return b.ensureGroup(ctx, opts)
}

// consumes reports whether the stream is for a topic's events.
func (s *subscription) consumes(topic string) bool {
	return pubsub.Matches(s.opts.Topic, topic)
}

// attach brings the stream its share of a topic. It is called with the broker's lock held.
func (s *subscription) attach(topic topicRecord) {
	if !s.consumes(topic.Topic) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, c := range consumersOf(topic, s.opts.Group, s.opts.Ordered) {
		if _, is := s.fed[c.name()]; is {
			continue
		}
		s.fed[c.name()] = struct{}{}
		s.broker.consuming.Go(func() { s.feed(c) })
	}
}

// Next implements pubsub.Subscription.
func (s *subscription) Next(ctx context.Context) (*pubsub.Delivery, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, pubsub.ErrClosed
		}
		if at, _ := s.find(s.taken + 1); at < len(s.inFlight) {
			d := s.inFlight[at]
			s.taken = d.Number
			if at+1 < len(s.inFlight) {
				signal(s.arrived)
			}
			d.since = s.broker.clock.Now()
			s.count(d, func(c pubsub.GroupCounter) { c.Delivered(&d.Delivery, &d.history.History, false, d.since) })
			s.mu.Unlock()
			return &d.Delivery, nil
		}
		s.mu.Unlock()
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Ack implements pubsub.Subscription.
func (s *subscription) Ack(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answerNumber(number, func(*delivery) pubsub.Settlement { return pubsub.Settlement{Outcome: pubsub.Acked} }) || s.ackLate(number)
}

// Nack implements pubsub.Subscription.
func (s *subscription) Nack(number uint64, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answerNumber(number, func(d *delivery) pubsub.Settlement { return d.failed(reason) })
}

// Pause implements pubsub.Subscription.
func (s *subscription) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = true
	s.giveBackWaiting()
}

// Resume implements pubsub.Subscription.
func (s *subscription) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = false
	s.roomChanged()
}

// InFlight implements pubsub.Subscription.
func (s *subscription) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inFlight)
}

// Emptied implements pubsub.Subscription.
func (s *subscription) Emptied() <-chan struct{} { return s.emptied }

// Close implements pubsub.Subscription.
func (s *subscription) Close() { s.end(false) }

// Interrupt implements pubsub.Subscription.
func (s *subscription) Interrupt() { s.end(true) }

func (s *subscription) end(interrupted bool) {
	s.broker.mu.Lock()
	delete(s.broker.streams, s)
	s.broker.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed, s.late = true, nil
	s.cancel()
	s.acks.Stop()
	for first := true; len(s.inFlight) > 0; first = false {
		d := s.inFlight[0]
		if interrupted && first && d.Number <= s.taken {
			s.finish(d, s.opts.Interrupted(d.history.History, s.broker.clock.Now()))
		} else {
			s.putBack(d)
		}
	}
	s.giveBackWaiting()
	s.roomChanged()
}

// retriesInFlight counts the events of a topic in flight that have failed before.
func (s *subscription) retriesInFlight(topic string) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.inFlight {
		if d.consumer.topic == topic && len(d.history.Attempts) > 0 {
			n++
		}
	}
	return n
}

// waitForRoom returns how many events a consumer may bring, or false: the stream was closed.
func (s *subscription) waitForRoom() (int, bool) {
	for {
		s.mu.Lock()
		most := s.opts.MaxAckPending
		if s.silent {
			most = 1
		}
		used := len(s.inFlight) + len(s.waiting) + s.settling
		closed, changed := s.closed, s.room
		var budgetFreed <-chan time.Time // or not
		if used > 0 && s.broker.opts.Budget.IsFull() {
			most, budgetFreed = used, s.broker.clock.After(2*retryPause)
		}
		if !closed && !s.paused && used < most {
			share := max(1, (most-used)/len(s.fed))
			s.mu.Unlock()
			return share, true
		}
		s.mu.Unlock()
		if closed {
			return 0, false
		}
		select {
		case <-changed:
		case <-budgetFreed:
		case <-s.ctx.Done():
			return 0, false
		}
	}
}

// arrive takes an event in, or puts it back.
func (s *subscription) arrive(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.paused:
		s.settling++
		s.broker.putBack(d)
	case len(s.inFlight) < s.opts.MaxAckPending && !(s.silent && len(s.inFlight) > 0):
		s.add(d)
	default:
		s.waiting = append(s.waiting, d)
	}
}

// All functions from here are called with the stream's lock held.

func (s *subscription) roomChanged() {
	close(s.room)
	s.room = make(chan struct{})
}

func (s *subscription) find(number uint64) (at int, found bool) {
	return slices.BinarySearchFunc(s.inFlight, number, func(d *delivery, number uint64) int {
		return int(int64(d.Number) - int64(number))
	})
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

// answerNumber ends a delivery that the app has answered, and reports whether it was out.
func (s *subscription) answerNumber(number uint64, end func(*delivery) pubsub.Settlement) bool {
	s.answered()
	at, found := s.find(number)
	if !found || number > s.taken {
		return false
	}
	d := s.inFlight[at]
	s.answer(d, end(d))
	return true
}

func (s *subscription) ackLate(number uint64) bool {
	at := slices.IndexFunc(s.late, func(d *delivery) bool { return d.Number == number })
	if at < 0 {
		return false
	}
	s.broker.settleLate(s.late[at])
	s.late = slices.Delete(s.late, at, at+1)
	return true
}

// answer ends a delivery that the app, or its ackWait, has ended.
func (s *subscription) answer(d *delivery, end pubsub.Settlement) {
	s.count(d, func(c pubsub.GroupCounter) { c.Answered(end.Outcome, d.since, s.broker.clock.Now()) })
	s.finish(d, end)
}

// count counts what happens to a delivery.
func (s *subscription) count(d *delivery, what func(c pubsub.GroupCounter)) {
	s.broker.countGroup(d.group(), func(c *pubsub.GroupCounts) {
		what(pubsub.GroupCounter{GroupCounts: c, Totals: s.broker.opts.Totals, Timings: s.timings})
	})
}

// finish ends a delivery.
func (s *subscription) finish(d *delivery, end pubsub.Settlement) {
	s.remove(d)
	s.broker.settle(d, end)
}

// putBack ends a delivery without an answer.
func (s *subscription) putBack(d *delivery) {
	s.remove(d)
	s.broker.putBack(d)
}

func (s *subscription) giveBackWaiting() {
	for _, d := range s.waiting {
		s.settling++
		s.broker.putBack(d)
	}
	s.waiting = nil
}

// remove takes a delivery out of flight, which has ended.
func (s *subscription) remove(d *delivery) {
	at, _ := s.find(d.Number)
	s.inFlight = slices.Delete(s.inFlight, at, at+1)
	s.settling++
	d.ended = true
	if d.cancel != nil {
		d.cancel()
	}
	if len(s.waiting) > 0 && !s.silent && !s.closed {
		s.add(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
	switch {
	case len(s.inFlight) == 0:
		signal(s.emptied)
	case at == 0 && !s.closed:
		s.acks.Restart()
	}
}

// settled follows a delivery that the server knows the end of.
func (s *subscription) settled(d *delivery) {
	s.settling--
	s.roomChanged()
	if d.settled != nil {
		close(d.settled)
	}
}

// expectLate keeps a delivery in mind whose ackWait ran out.
func (s *subscription) expectLate(d *delivery) {
	if len(s.late) >= s.opts.MaxAckPending {
		s.late = slices.Delete(s.late, 0, 1)
	}
	d.settled = make(chan struct{})
	late := &delivery{broker: d.broker, consumer: d.consumer, reply: d.reply, settled: d.settled}
	late.Number, late.Event.Sequence = d.Number, d.Event.Sequence
	s.late = append(s.late, late)
}

// answered follows any answer of the app, also one that comes too late.
func (s *subscription) answered() {
	if s.silent {
		s.silent = false
		s.roomChanged()
	}
}

// checkAckWait fails the oldest event if its time ran out.
func (s *subscription) checkAckWait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.acks.Expired(!s.closed && len(s.inFlight) > 0) {
		return
	}
	// An app that hangs is not to keep what others could handle, one ackWait after the other.
	s.silent = true
	oldest := s.inFlight[0]
	for len(s.inFlight) > 1 {
		s.putBack(s.inFlight[len(s.inFlight)-1])
	}
	s.giveBackWaiting()
	end := oldest.failed(s.opts.LateText())
	if end.Outcome == pubsub.Retried && oldest.Number <= s.taken {
		s.expectLate(oldest)
	}
	s.answer(oldest, end)
}

// signal wakes whoever listens on a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
