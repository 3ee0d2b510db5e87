package pubsub

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// enginePause is the wait after the engine failed, for example on a full disk, before it is asked again.
	enginePause = time.Second
	// endUnknown is the end of a log of which nobody knows how far it goes.
	endUnknown = math.MaxUint64
)

type groupName struct{ topic, group string }

// group owns the delivery of one topic to one consumer group: which event may go out next, what is in flight, what waits,
// and what is blocked by which partition key. It lives as long as it has streams.
//
// Two goroutines work for it: its loader's reads from the engine, its settler's writes to it. The broker's lock guards the
// rest and is held by neither meanwhile. Whoever changes something under that lock, because events were read, one has
// ended, or a stream has room, delivers what may go out before the lock is released.
type group struct {
	groupName
	broker *Broker
	policy DeliverPolicy
	// counts are guarded by the broker's lock.
	counts GroupCounter
	// ctx ends with the last stream; done is closed when everything is written down.
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{}
	loader  loader
	settler settler

	state   groupState
	streams []*subscription
	turn    int
	// ordered and keepExpired are what a stream asks for, or one of the last streams did.
	ordered, keepExpired bool

	// What may go out next, in this order of precedence: what streams have put back, by sequence; what failed and is due;
	// what was redriven; what a partition key had blocked; and the log, from its beginning.
	returned, retries, redriven, unblocked, fresh []*delivery

	// inFlight counts the events that streams have; retrying, those that wait for another delivery or are in one.
	inFlight, retrying int
	partitions         partitions

	// What the engine may have: the log after cursor, up to end; redriven events; retries, the first of them at nextRetry;
	// the first blocked event of keys that came free. appended is where the log has grown to since the loader began to read it;
	// readingLog: it is reading it.
	cursor, end, appended uint64
	readingLog            bool
	moreRedriven          bool
	nextRetry             time.Time
	freed                 []string

	// late has the events whose ackWait ran out and that have not ended since, by sequence. acked are those of them that the app
	// has acknowledged, whose wait is to be over.
	late  map[uint64]*lateEvent
	acked []*lateEvent

	// held is what the group takes of the budget: all that was read and not settled yet.
	held int
}

// lateEvent is an event whose ackWait ran out. When it comes back from the dead letters, it is another one.
type lateEvent struct {
	// retry is what the engine knows it by, or will.
	retry RetryKey
	acked bool
}

type groupState int

const (
	// groupOpening: the engine has not told yet where the group stands.
	groupOpening groupState = iota
	// groupOpen: events are read, delivered and settled.
	groupOpen
	// groupEnding: the last stream has left. What was settled is written down, and nothing else happens.
	groupEnding
)

// startGroup returns a group that begins once nobody else holds its lock. It is called with the broker's lock held.
func startGroup(b *Broker, name groupName, policy DeliverPolicy) *group {
	g := &group{
		groupName:    name,
		broker:       b,
		policy:       policy,
		done:         make(chan struct{}),
		partitions:   partitions{},
		late:         map[uint64]*lateEvent{},
		state:        groupOpening,
		end:          endUnknown,
		moreRedriven: true,
	}
	g.loader, g.settler = newLoader(g), newSettler(g)
	g.ctx, g.stop = context.WithCancel(context.Background())
	b.unfinished[g] = struct{}{}
	go g.run()
	return g
}

func (g *group) run() {
	b := g.broker
	if b.lockGroup(g.ctx, g.groupName, anyway) == nil {
		var settling sync.WaitGroup
		settling.Go(g.settler.run)
		if g.open() {
			g.loader.run()
		}
		settling.Wait()
		b.unlockGroup(g.groupName)
	}
	b.budget.leave(g.loader.wake)
	b.mu.Lock()
	b.budget.Free(g.held)
	delete(b.unfinished, g)
	b.mu.Unlock()
	close(g.done)
}

// open asks the engine where the group stands, and keeps asking while the engine fails.
func (g *group) open() bool {
	b := g.broker
	for {
		done, err := b.engine.OpenGroup(g.ctx, g.topic, g.group, g.policy, b.names)
		var total int
		var byKey map[string]int
		if err == nil {
			total, byKey, err = b.engine.Retrying(g.ctx, g.topic, g.group)
		}
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			if g.state == groupEnding {
				return false
			}
			g.counts = GroupCounter{b.counts(g.groupName), b.totals, b.timings(g.group)}
			g.state, g.cursor, g.retrying, g.nextRetry = groupOpen, done, total, b.clock.Now()
			for key, n := range byKey {
				g.partitions.of(key).retrying = n
			}
			return true
		}
		if g.ctx.Err() == nil {
			b.log.Error("a consumer group could not be opened", "topic", g.topic, "group", g.group, "error", err)
		}
		select {
		case <-b.clock.After(enginePause):
		case <-g.ctx.Done():
			return false
		}
	}
}

// All functions from here are called with the broker's lock held.

// add gives the group a stream.
func (g *group) add(s *subscription) {
	g.setStreams(append(slices.Clone(g.streams), s))
	s.groups = append(s.groups, g)
	g.loader.wakeUp()
}

// remove takes a stream away, and ends the group if it was the last.
func (g *group) remove(s *subscription) {
	g.setStreams(slices.DeleteFunc(slices.Clone(g.streams), func(other *subscription) bool { return other == s }))
	if len(g.streams) > 0 {
		g.deliver()
		return
	}
	g.state = groupEnding
	g.stop()
}

func (g *group) setStreams(streams []*subscription) {
	g.streams = streams
	if len(streams) > 0 {
		g.keepExpired = slices.ContainsFunc(streams, func(s *subscription) bool { return s.opts.DeadLetterExpired })
		g.ordered = slices.ContainsFunc(streams, func(s *subscription) bool { return s.opts.Ordered })
	}
}

// notifyAppended tells of events that were stored in the log, up to that sequence. Where a stream waits for them, they go
// out at once if they are known still, without a look at the disk.
func (g *group) notifyAppended(upTo uint64) {
	g.end, g.appended = max(g.end, upTo), max(g.appended, upTo)
	if s, _ := g.slot(); s == nil || len(g.fresh) > 0 {
		return
	}
	if g.toLoad(readAhead, g.broker.clock.Now()) != logEvents || !g.broker.budget.take(readAheadBytes) {
		g.loader.wakeUp()
		return
	}
	if !g.takeRecent(fullRoom) {
		g.hold(nil, fullRoom)
		g.loader.wakeUp()
		return
	}
	g.deliver()
}

// notifyBuried tells that the engine has taken events out of the log: it knows best which are left.
func (g *group) notifyBuried() { g.end = endUnknown }

// takeRecent takes the next events of the log that are known still, if there are any. Those from before the group had read all
// of the log are not among them: the engine knows which of those the group is done with.
func (g *group) takeRecent(r room) (taken bool) {
	if g.end == endUnknown || g.readingLog {
		return false
	}
	events := g.broker.recent.following(g.topic, g.cursor, r.limit, r.maxBytes)
	if len(events) == 0 {
		return false
	}
	g.cursor = events[len(events)-1].Sequence
	g.fresh = g.hold(g.fromLog(events), r)
	return true
}

// notifyRedriven tells of redriven events.
func (g *group) notifyRedriven() {
	g.moreRedriven = true
	g.loader.wakeUp()
}

// deliver hands out what may go out, to each stream in turn.
func (g *group) deliver() {
	for {
		s, at := g.slot()
		if s == nil || !g.give(s) {
			return
		}
		g.turn = at + 1
		if s.waitsFor == g {
			s.waitsFor = nil
			s.fill()
		}
	}
}

// slot returns the next stream in turn that takes an event, one that has none before any other; or nil.
func (g *group) slot() (found *subscription, at int) {
	for i := range g.streams {
		next := (g.turn + i) % len(g.streams)
		s := g.streams[next]
		if !s.hasRoom() || s.waitsFor != nil && s.waitsFor != g {
			continue
		}
		if len(s.inFlight) == 0 && !s.silent {
			return s, next
		}
		if found == nil {
			found, at = s, next
		}
	}
	return found, at
}

// hasAnother reports whether another stream could take what this one has.
func (g *group) hasAnother(s *subscription) bool {
	return slices.ContainsFunc(g.streams, func(other *subscription) bool { return other != s && !other.silent && !other.paused })
}

// give hands the stream the next event. If none can go out before more is read, the loader hears of it.
func (g *group) give(s *subscription) bool {
	d := g.next()
	if d == nil {
		if g.loads() {
			g.loader.wakeUp()
		}
		return false
	}
	d.stream = s
	s.add(d)
	return true
}

// canDeliver reports whether anything may go out at all.
func (g *group) canDeliver() bool {
	return g.state == groupOpen && !g.settler.full() && !(g.ordered && g.inFlight > 0)
}

// next takes the next event that may go out, or returns nil. Events that must not be delivered any more end on the way.
func (g *group) next() *delivery {
	for g.canDeliver() {
		d := g.take()
		if d == nil {
			return nil
		}
		g.inFlight++
		g.partitions.takeOff(d)
		// Those that grow too old in the log are the engine's to bury: see Engine.BuryAged.
		end, ends := EndUndelivered(&d.Event, d.history, d.agesAt, g.keepExpired, g.broker.clock)
		if !ends && !g.ackedLate(d.Event.Sequence) {
			return d
		}
		g.finish(d, end)
	}
	return nil
}

// take removes the next event that may go out from those that were read.
func (g *group) take() *delivery {
	if d := takeFirst(&g.returned, g.partitions.canRedeliver); d != nil {
		g.partitions.retake(d.Event.PartitionKey)
		return d
	}
	if d := takeFirst(&g.retries, g.partitions.canRedeliver); d != nil {
		return d
	}
	if g.ordered && g.retrying > 0 {
		return nil
	}
	for len(g.redriven) > 0 && g.reached(g.redriven[0].after) {
		d := g.redriven[0]
		g.redriven = g.redriven[1:]
		if g.partitions.canDeliverRedriven(d) {
			return d
		}
		// It waits on disk until its key comes free, and does not hold up those behind it.
		g.drop(d)
		g.partitions.blockRedriven(d)
	}
	if d := takeFirst(&g.unblocked, g.partitions.canDeliverFirst); d != nil {
		return d
	}
	for len(g.fresh) > 0 {
		d := g.fresh[0]
		g.fresh = g.fresh[1:]
		if g.partitions.canDeliver(d) {
			return d
		}
		g.drop(d)
		g.partitions.block(d)
	}
	return nil
}

func takeFirst(from *[]*delivery, may func(*delivery) bool) *delivery {
	i := slices.IndexFunc(*from, may)
	if i < 0 {
		return nil
	}
	d := (*from)[i]
	if i == 0 {
		*from = (*from)[1:]
	} else {
		*from = slices.Delete(*from, i, i+1)
	}
	return d
}

// reached reports whether the log was handed out up to that sequence.
func (g *group) reached(sequence uint64) bool {
	if len(g.fresh) > 0 {
		return g.fresh[0].Event.Sequence > sequence
	}
	return g.cursor >= sequence || g.cursor >= g.end
}

// putBack takes a delivery back that ended without an answer.
func (g *group) putBack(d *delivery) {
	g.inFlight--
	g.partitions.putBack(d.Event.PartitionKey)
	again := &delivery{Delivery: Delivery{Event: d.Event, Count: d.Count}, group: g, retry: d.retry, history: d.history, after: d.after, bytes: d.bytes,
		again: d.again || !d.since.IsZero()}
	at, _ := slices.BinarySearchFunc(g.returned, again, func(a, b *delivery) int {
		return int(int64(a.Event.Sequence) - int64(b.Event.Sequence))
	})
	g.returned = slices.Insert(g.returned, at, again)
}

// expectLate keeps an event in mind whose ackWait ran out, and that is about to be retried.
func (g *group) expectLate(d *delivery) *lateEvent {
	e := g.late[d.Event.Sequence]
	if e == nil {
		e = &lateEvent{}
		g.late[d.Event.Sequence] = e
	}
	return e
}

// ackLate takes an acknowledgement for an event whose ackWait ran out. It reports false if the event has ended.
func (g *group) ackLate(e *lateEvent) bool {
	if g.late[e.retry.Sequence] != e {
		return false
	}
	e.acked = true
	g.acked = append(g.acked, e)
	g.loader.wakeUp()
	return true
}

// ackedLate reports whether an event was acknowledged after the ackWait of an earlier delivery.
func (g *group) ackedLate(sequence uint64) bool {
	e := g.late[sequence]
	return e != nil && e.acked
}

// finish records what became of an event that was in flight.
func (g *group) finish(d *delivery, s Settlement) {
	if g.ackedLate(d.Event.Sequence) {
		s = Settlement{Outcome: Acked}
	}
	if s.Outcome != Retried {
		delete(g.late, d.Event.Sequence)
	} else if e := g.late[d.Event.Sequence]; e != nil {
		e.retry = RetryKey{Order: s.Due.UnixNano(), Sequence: d.Event.Sequence}
	}
	s.Sequence, s.Retry, s.partitionKey = d.Event.Sequence, d.retry, d.Event.PartitionKey
	g.inFlight--
	g.loader.stalled = false
	g.drop(d)
	g.setRetrying(s.partitionKey, d.isRetrying(), s.Outcome == Retried)
	g.letGo(g.partitions.release(s.partitionKey))
	g.settler.add(s)
}

func (g *group) setRetrying(key string, was, is bool) {
	change := 0
	switch {
	case is && !was:
		change = 1
	case was && !is:
		change = -1
	}
	g.retrying += change
	g.partitions.addRetrying(key, change)
}

// letGo has what a partition key blocked read again, once that has come free.
func (g *group) letGo(key string, first bool, redriven *RetryKey) {
	if first {
		g.freed = append(g.freed, key)
	}
	if redriven == nil {
		return
	}
	g.loader.forget(*redriven)
	// Those that were read lie behind it.
	for _, d := range g.redriven {
		g.drop(d)
		g.loader.forget(*d.retry)
	}
	g.redriven, g.moreRedriven = nil, true
}

// drop gives back what an event took of the budget.
func (g *group) drop(d *delivery) {
	g.held -= d.bytes
	g.broker.budget.Free(d.bytes)
}

// loads reports whether the loader is about to read something.
func (g *group) loads() bool {
	return !g.loader.stalled && g.toLoad(readAhead, g.broker.clock.Now()) != nothing
}

// toLoad returns what is to be read so that another event can go out. Of the events that were read and whose turn has not
// come, as many may be there as most says.
func (g *group) toLoad(most int, now time.Time) source {
	switch {
	case !g.canDeliver():
		return nothing
	case len(g.acked) > 0:
		return ackedRetries
	case len(g.retries) < most && g.isDue(g.nextRetry, now):
		return dueRetries
	case g.ordered && g.retrying > 0:
		return nothing
	// Before what is blocked: a redriven event of the same key would wait for it without end.
	case g.moreRedriven && len(g.redriven) < most:
		return redrivenEvents
	case len(g.freed) > 0:
		return freedKeys
	case len(g.fresh) == 0 && g.cursor < g.end:
		return logEvents
	}
	return nothing
}

// isDue reports whether a retry goes out that is due at a time; zero: there is none.
func (g *group) isDue(at, now time.Time) bool {
	return !at.IsZero() && !slices.ContainsFunc(g.streams, func(s *subscription) bool { return s.opts.BackOff.Holds(at, now) })
}

// passTurn lets streams that wait for this group turn to their other ones.
func (g *group) passTurn() {
	for _, s := range g.streams {
		if s.waitsFor == g {
			s.waitsFor = nil
			s.fill()
		}
	}
}
