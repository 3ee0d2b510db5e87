package pubsub

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// readAhead bounds the events that a queue reads from the engine at a time.
	readAhead = 64
	// readAheadBytes bounds their size, but for the first.
	readAheadBytes = 1 << 20
	// maxUnsettled bounds the settlements that wait for the disk; beyond it, nothing more is delivered.
	maxUnsettled = 4096
)

// item is an event that could be delivered next.
type item struct {
	event   Event
	history History
	retry   *RetryKey
	// bytes is what the item takes of the budget.
	bytes int
	// aged says that it is to be buried instead.
	aged bool
}

// queue hands one group's share of one topic to the group's streams. It lives as long as there are streams.
//
// Its run goroutine alone reads from the engine, its settler alone writes; the lock is held by neither meanwhile.
type queue struct {
	broker       *Broker
	topic, group string
	policy       DeliverPolicy
	wake         chan struct{}
	// ctx ends when the last stream has left; ended is then called once everything is written down.
	ctx   context.Context
	stop  context.CancelFunc
	done  chan struct{}
	ended func()

	mu sync.Mutex
	// streams is never changed in place.
	streams []*Subscription
	// ordered and keepExpired say that a stream asks for it, or that one of the last streams did.
	ordered, keepExpired bool
	turn                 int
	inHand               int
	// returned holds what streams gave back, by sequence.
	returned []item
	// log says that the topic may hold events after the backlog's cursor, grown that it does, up to that sequence; zero:
	// none that are known of. redriven says that there may be redriven events to read, nextRetry when the next retry is due.
	log       bool
	grown     uint64
	redriven  bool
	nextRetry time.Time
	// starved says that run found nothing to hand out, and that the end of an event in hand would not change that.
	starved bool
	// busy are the retries that are in hand, or settled but not written yet: still on disk, and not to be read.
	busy map[RetryKey]struct{}
	// reading says that run is reading retries or redriven events. What is settled meanwhile may be in what it reads, and
	// so stays busy until it has read: settledMeanwhile.
	reading          bool
	settledMeanwhile []RetryKey
	holds            holds
	// held is what the queue takes of the budget: all that it has read and not settled yet. over: it has given it back.
	held int
	over bool

	// waits is the budget's.
	waits bool

	settler settler
	// The rest belongs to run.
	backlog backlog
}

func newQueue(b *Broker, name queueName, policy DeliverPolicy) *queue {
	ctx, stop := context.WithCancel(context.Background())
	q := &queue{
		broker:   b,
		topic:    name.topic,
		group:    name.group,
		policy:   policy,
		wake:     make(chan struct{}, 1),
		ctx:      ctx,
		stop:     stop,
		done:     make(chan struct{}),
		busy:     map[RetryKey]struct{}{},
		holds:    newHolds(),
		log:      true,
		redriven: true,
	}
	q.settler = settler{queue: q, wake: make(chan struct{}, 1)}
	return q
}

// start runs the queue once its predecessor of the same name, if any, has written down everything.
func (q *queue) start(predecessor *queue) {
	go func() {
		if predecessor != nil {
			<-predecessor.done
		}
		settled := make(chan struct{})
		go func() {
			defer close(settled)
			q.settler.run()
		}()
		q.run()
		<-settled
		q.giveBack()
		close(q.done)
		q.ended()
	}()
}

// end stops the queue; ended is called when it has written everything down.
func (q *queue) end(ended func()) {
	q.ended = ended
	q.stop()
}

func (q *queue) add(s *Subscription) {
	q.mu.Lock()
	q.setStreams(append(slices.Clone(q.streams), s))
	q.mu.Unlock()
	signal(q.wake)
}

// remove returns how many streams are left.
func (q *queue) remove(s *Subscription) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.setStreams(slices.DeleteFunc(slices.Clone(q.streams), func(other *Subscription) bool { return other == s }))
	signal(q.wake)
	return len(q.streams)
}

// setStreams is called with q.mu held.
func (q *queue) setStreams(streams []*Subscription) {
	q.streams = streams
	if len(streams) == 0 {
		// Whatever still ends ends as they have asked.
		return
	}
	q.keepExpired = slices.ContainsFunc(streams, func(s *Subscription) bool { return s.opts.DeadLetterExpired })
	q.ordered = slices.ContainsFunc(streams, func(s *Subscription) bool { return s.opts.Ordered })
}

// hold counts bytes that were read, for which so many are reserved.
func (q *queue) hold(bytes, reserved int) {
	q.mu.Lock()
	q.held += bytes
	q.mu.Unlock()
	if bytes > reserved {
		q.broker.budget.exceed(bytes - reserved)
	} else {
		q.broker.budget.free(reserved - bytes)
	}
}

// drop ends hold. It is called with q.mu held.
func (q *queue) drop(bytes int) {
	if !q.over {
		q.held -= bytes
		q.broker.budget.free(bytes)
	}
}

// giveBack ends the queue's part in the budget.
func (q *queue) giveBack() {
	q.mu.Lock()
	q.over = true
	q.broker.budget.free(q.held)
	q.mu.Unlock()
	q.broker.budget.leave(q)
}

func (q *queue) load() (inHand, streams int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inHand, len(q.streams)
}

// logGrew tells of new events, up to that sequence; zero: up to any.
func (q *queue) logGrew(upTo uint64) {
	q.mu.Lock()
	if upTo == 0 {
		q.log = true
	}
	q.grown = max(q.grown, upTo)
	q.mu.Unlock()
	signal(q.wake)
}

// eventEnded lets run look for work, if there can be any now that a stream has a free slot or nothing holds back what
// waited for an event.
func (q *queue) eventEnded() {
	q.mu.Lock()
	starved := q.starved
	q.mu.Unlock()
	if !starved {
		signal(q.wake)
	}
}

func (q *queue) redrivenCame() {
	q.mu.Lock()
	q.redriven = true
	q.mu.Unlock()
	signal(q.wake)
}

func (q *queue) run() {
	if !q.open() {
		return
	}
	for {
		due, cancelTimer := alarm(q.broker.clock, q.dispatch())
		select {
		case <-q.wake:
		case <-due:
		case <-q.ctx.Done():
			cancelTimer()
			return
		}
		cancelTimer()
	}
}

// open learns from the engine where the group stands, and keeps trying while the engine fails.
func (q *queue) open() bool {
	for {
		err := q.tryOpen()
		if err == nil {
			return true
		}
		if q.ctx.Err() == nil {
			q.broker.log.Error("a consumer group could not be opened", "topic", q.topic, "group", q.group, "error", err)
		}
		select {
		case <-q.broker.clock.After(enginePause):
		case <-q.ctx.Done():
			return false
		}
	}
}

func (q *queue) tryOpen() error {
	done, err := q.broker.engine.OpenGroup(q.ctx, q.topic, q.group, q.policy, q.broker.names)
	if err != nil {
		return err
	}
	total, byKey, err := q.broker.engine.Retrying(q.ctx, q.topic, q.group)
	if err != nil {
		return err
	}
	q.backlog.cursor = done
	q.mu.Lock()
	q.holds.retrying, q.holds.retryingKeys = total, byKey
	q.nextRetry = q.broker.clock.Now()
	q.mu.Unlock()
	return nil
}

// dispatch hands out events until there is none, or no stream has a slot. It returns when to try again unless
// something wakes the queue before; zero: there is nothing to wait for.
func (q *queue) dispatch() (again time.Time) {
	defer q.broker.budget.passOn()
	q.mu.Lock()
	q.starved = false
	q.mu.Unlock()
	emptyOnly := false
	for {
		s, empty := q.reserve(emptyOnly)
		if s == nil {
			return time.Time{}
		}
		now := q.broker.clock.Now()
		q.backlog.mayExceed, q.backlog.refused = empty, false
		it, err := q.next(now)
		switch {
		case err != nil:
			s.release()
			if q.ctx.Err() == nil {
				q.broker.log.Error("events could not be read", "topic", q.topic, "group", q.group, "error", err)
			}
			return now.Add(enginePause)
		case it == nil && q.backlog.refused && !emptyOnly:
			s.release()
			// There is no room for what this stream has beside other events; one without any need not wait.
			emptyOnly = true
			continue
		case it == nil:
			s.release()
			q.mu.Lock()
			defer q.mu.Unlock()
			q.starved = q.hasNothing()
			if q.nextRetry.After(now) {
				return q.nextRetry
			}
			// A retry that is due and yet not taken waits for something in hand, whose end will wake the queue.
			return time.Time{}
		}
		q.hand(s, *it)
	}
}

// reserve finds the next stream with a free slot, in turn, and says whether it has nothing in hand.
func (q *queue) reserve(emptyOnly bool) (s *Subscription, empty bool) {
	q.mu.Lock()
	streams, first := q.streams, q.turn
	q.mu.Unlock()
	for i := range streams {
		at := (first + i) % len(streams)
		if ok, empty := streams[at].reserve(q, emptyOnly); ok {
			q.mu.Lock()
			q.turn = at + 1
			q.mu.Unlock()
			return streams[at], empty
		}
	}
	return nil, false
}

func (q *queue) hand(s *Subscription, it item) {
	d := &Delivery{
		Event:   it.event,
		Count:   it.history.Deliveries + 1,
		stream:  s,
		queue:   q,
		retry:   it.retry,
		history: it.history,
		bytes:   it.bytes,
	}
	if !s.hand(d) {
		q.putBack(d)
	}
}

// putBack returns a delivery that ended without an answer.
func (q *queue) putBack(d *Delivery) {
	q.mu.Lock()
	q.inHand--
	q.holds.putBack(d.Event.PartitionKey)
	it := item{event: d.Event, history: d.history, retry: d.retry, bytes: d.bytes}
	at, _ := slices.BinarySearchFunc(q.returned, it, func(a, b item) int {
		return int(int64(a.event.Sequence) - int64(b.event.Sequence))
	})
	q.returned = slices.Insert(q.returned, at, it)
	q.mu.Unlock()
	signal(q.wake)
}

// settle records what became of a delivery.
func (q *queue) settle(d *Delivery, s Settlement) {
	s.Sequence, s.Retry, s.partitionKey = d.Event.Sequence, d.retry, d.Event.PartitionKey
	q.mu.Lock()
	q.inHand--
	q.drop(d.bytes)
	q.holds.release(d.Event.PartitionKey)
	q.holds.settle(d.Event.PartitionKey, d.retry != nil && !d.retry.Redriven, s.Outcome == Retried)
	q.settler.waiting = append(q.settler.waiting, s)
	starved := q.starved
	q.mu.Unlock()
	signal(q.settler.wake)
	if !starved {
		signal(q.wake)
	}
}
