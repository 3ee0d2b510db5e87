package pubsub

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
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
	// AckWait is how long one event may take, counted from when it is the oldest that the stream has in hand. Zero: no
	// bound.
	AckWait time.Duration
	// MaxAckPending bounds the events that the stream has in hand. Zero: one.
	MaxAckPending int
	// Ordered holds the group's later events back while one is being retried. It takes effect when any stream of the
	// group asks for it.
	Ordered bool
	// DeliverPolicy is where the group starts if it is new. Empty: DeliverAll.
	DeliverPolicy DeliverPolicy
	// DeadLetterExpired sends events whose time to live has ended to the dead letters instead of dropping them.
	DeadLetterExpired bool
}

// Subscription is one stream: what an app instance has in hand of its group's events.
type Subscription struct {
	broker *Broker
	opts   SubscribeOptions
	// arrived tells Next of an event; ended is closed by Close; emptied is for Emptied.
	arrived chan struct{}
	ended   chan struct{}
	emptied chan struct{}

	mu     sync.Mutex
	queues []*queue
	// reserved counts the slots in use: events in hand and those on their way.
	reserved int
	// missed are queues that found a slot reserved for an event that may yet not come.
	missed []*queue
	inHand hand
	// headSince is when the oldest in hand became that.
	headSince time.Time
	ackTimer  clockwork.Timer
	paused    bool
	closed    bool
}

func newSubscription(b *Broker, opts SubscribeOptions) *Subscription {
	if opts.MaxAckPending <= 0 {
		opts.MaxAckPending = 1
	}
	if opts.DeliverPolicy == "" {
		opts.DeliverPolicy = DeliverAll
	}
	return &Subscription{
		broker:  b,
		opts:    opts,
		arrived: make(chan struct{}, 1),
		ended:   make(chan struct{}),
		emptied: make(chan struct{}, 1),
		inHand:  hand{byNumber: map[uint64]*Delivery{}},
	}
}

// Next waits for the next event. It returns ErrClosed once the subscription is closed. Every delivery must be ended by
// Ack or Nack, or it ends by itself after AckWait or Close.
func (s *Subscription) Next(ctx context.Context) (*Delivery, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		if d := s.inHand.take(); d != nil {
			if s.inHand.untaken != nil {
				signal(s.arrived)
			}
			s.mu.Unlock()
			return d, nil
		}
		s.mu.Unlock()
		select {
		case <-s.arrived:
		case <-s.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Pause stops new deliveries; what is in hand can still be acknowledged.
func (s *Subscription) Pause() {
	s.mu.Lock()
	s.paused = true
	s.mu.Unlock()
}

// Resume undoes Pause.
func (s *Subscription) Resume() {
	s.mu.Lock()
	s.paused = false
	s.mu.Unlock()
	s.slotFreed(nil)
}

// InHand counts the events that were handed over and not ended yet.
func (s *Subscription) InHand() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inHand.len()
}

// Emptied gets a value when the last event in hand has ended.
func (s *Subscription) Emptied() <-chan struct{} { return s.emptied }

// Delivery returns the delivery of that number, or nil if Next has not returned it, or it has ended.
func (s *Subscription) Delivery(number uint64) *Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inHand.out(number)
}

// Close ends the stream of a process that stops, and puts what is in hand back at once, uncounted. It may be called more
// than once.
func (s *Subscription) Close() { s.end(false) }

// Interrupt is Close for a stream that its consumer has ended. The oldest event in hand, if Next has returned it, may be
// why: for that one it counts as an interruption, after which it waits as it does after a failed delivery, and too many of
// which in a row make it a dead letter. The events behind it were not being handled yet.
func (s *Subscription) Interrupt() { s.end(true) }

func (s *Subscription) end(interrupted bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.ended)
	if s.ackTimer != nil {
		s.ackTimer.Stop()
	}
	var handled *Delivery
	if oldest := s.inHand.oldest; interrupted && oldest != s.inHand.untaken {
		handled = oldest
		s.remove(oldest)
	}
	var back []*Delivery
	for d := s.inHand.oldest; d != nil; d = s.inHand.oldest {
		s.remove(d)
		back = append(back, d)
	}
	s.mu.Unlock()

	// First, so that nothing overtakes it that must not.
	if handled != nil {
		handled.interrupt()
	}
	for _, d := range back {
		d.queue.putBack(d)
	}
	s.broker.detach(s)
}

func (s *Subscription) join(q *queue) {
	s.mu.Lock()
	s.queues = append(s.queues, q)
	s.mu.Unlock()
}

func (s *Subscription) leave() []*queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	queues := s.queues
	s.queues = nil
	return queues
}

// reserve takes a slot for an event of q on its way, and says whether the stream has nothing else; emptyOnly: it takes
// none unless that is so.
func (s *Subscription) reserve(q *queue, emptyOnly bool) (ok, empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.paused {
		return false, false
	}
	empty = s.reserved == 0
	if s.reserved >= s.opts.MaxAckPending || emptyOnly && !empty {
		if s.reserved > s.inHand.len() && !slices.Contains(s.missed, q) {
			s.missed = append(s.missed, q)
		}
		return false, false
	}
	s.reserved++
	return true, empty
}

// release gives a slot back that was not used, and lets those queues look again that found it reserved.
func (s *Subscription) release() {
	s.mu.Lock()
	s.reserved--
	missed := s.missed
	s.missed = nil
	s.mu.Unlock()
	for _, q := range missed {
		signal(q.wake)
	}
}

// hand fills a reserved slot. It returns false if the stream was closed meanwhile.
func (s *Subscription) hand(d *Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.reserved--
		return false
	}
	s.inHand.add(d)
	if s.inHand.len() == 1 {
		s.newHead()
	}
	signal(s.arrived)
	return true
}

// take takes a delivery out of hand; false means that it has ended before.
func (s *Subscription) take(d *Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !d.inHand {
		return false
	}
	s.remove(d)
	return true
}

// remove is called with s.mu held.
func (s *Subscription) remove(d *Delivery) {
	wasHead := s.inHand.oldest == d
	s.inHand.remove(d)
	if d.cancel != nil {
		d.cancel()
	}
	s.reserved--
	switch {
	case s.inHand.len() == 0:
		signal(s.emptied)
	case wasHead && !s.closed:
		s.newHead()
	}
}

// newHead starts the ack clock of the oldest event. A timer that is running already finds out about the new head when
// it fires. It is called with s.mu held.
func (s *Subscription) newHead() {
	s.headSince = s.broker.clock.Now()
	if s.ackTimer == nil && s.opts.AckWait > 0 {
		s.ackTimer = s.broker.clock.AfterFunc(s.opts.AckWait, s.checkAckWait)
	}
}

// checkAckWait fails the oldest event if its time ran out, and sets the timer for the next.
func (s *Subscription) checkAckWait() {
	s.mu.Lock()
	s.ackTimer = nil
	if s.closed || s.inHand.len() == 0 {
		s.mu.Unlock()
		return
	}
	clock, deadline := s.broker.clock, s.headSince.Add(s.opts.AckWait)
	if left := deadline.Sub(clock.Now()); left > 0 {
		s.ackTimer = clock.AfterFunc(left, s.checkAckWait)
		// As in alarm: a clock that was set forward meanwhile does not make the timer late.
		if clock.Now().Before(deadline) || !s.ackTimer.Stop() {
			s.mu.Unlock()
			return
		}
		s.ackTimer = nil
	}
	late := s.inHand.oldest
	s.remove(late)
	s.mu.Unlock()

	late.fail(fmt.Sprintf("not acknowledged within ackWait %s", s.opts.AckWait))
}

// slotFreed lets every queue of the stream look for work, but for one that knows.
func (s *Subscription) slotFreed(knows *queue) {
	s.mu.Lock()
	queues := s.queues
	s.mu.Unlock()
	for _, q := range queues {
		if q != knows {
			q.eventEnded()
		}
	}
}
