package pubsub

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// readAhead bounds the events that a group reads from the engine at a time.
	readAhead = 64
	// readAheadBytes bounds their size, but for the first.
	readAheadBytes = 1 << 20
	// maxUnsettled bounds the settlements that wait for the disk; beyond it, nothing more is delivered.
	maxUnsettled = 4096
	// enginePause is the wait after the engine failed, for example on a full disk, before it is asked again.
	enginePause = time.Second
	// endUnknown is the end of a log of which nobody knows how far it goes.
	endUnknown = math.MaxUint64
)

type groupName struct{ topic, group string }

// group owns the delivery of one topic to one consumer group: which event may go out next, what is in flight, what waits,
// and what is blocked by which partition key. It lives as long as it has streams.
//
// Two goroutines work for it: load alone reads from the engine, settle alone writes to it. The broker's lock guards the
// rest and is held by neither meanwhile. Whoever changes something under that lock, because events were read, one has
// ended, or a stream has room, delivers what may go out before the lock is released.
type group struct {
	groupName
	broker *Broker
	policy DeliverPolicy
	// counts are guarded by the broker's lock.
	counts GroupCounter
	// ctx ends with the last stream; done is closed when everything is written down.
	ctx  context.Context
	stop context.CancelFunc
	done chan struct{}
	// mayLoad and maySettle wake the two goroutines. asks are what others want load to do between two of its reads.
	mayLoad, maySettle chan struct{}
	asks               chan func()

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
	// the first blocked event of keys that came free. appended is where the log has grown to since load began to read it;
	// readingLog: it is reading it.
	cursor, end, appended uint64
	readingLog            bool
	moreRedriven          bool
	nextRetry             time.Time
	freed                 []string
	// stalled: load has found no room for what it would read, or the engine failed. It tries again when something changes.
	stalled bool

	// unsettled waits for settle, which is writing so many.
	unsettled []Settlement
	writing   int
	// held is what the group takes of the budget: all that was read and not settled yet.
	held int

	// busy are the retries and redriven events that were read: they stay on disk until they are settled. It belongs to load,
	// which forgets those in idle before it reads again. By then they are gone from the disk, also as the engine sees it.
	busy map[RetryKey]struct{}
	idle []RetryKey
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

// source is what load reads next.
type source int

const (
	nothing source = iota
	dueRetries
	freedKeys
	redrivenEvents
	logEvents
)

// startGroup returns a group that begins once nobody else holds its lock. It is called with the broker's lock held.
func startGroup(b *Broker, name groupName, policy DeliverPolicy) *group {
	g := &group{
		groupName:    name,
		broker:       b,
		policy:       policy,
		done:         make(chan struct{}),
		mayLoad:      make(chan struct{}, 1),
		maySettle:    make(chan struct{}, 1),
		asks:         make(chan func()),
		partitions:   partitions{},
		state:        groupOpening,
		end:          endUnknown,
		moreRedriven: true,
		busy:         map[RetryKey]struct{}{},
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	b.unfinished[g] = struct{}{}
	go g.run()
	return g
}

func (g *group) run() {
	b := g.broker
	if b.lockGroup(g.ctx, g.groupName) == nil {
		var settling sync.WaitGroup
		settling.Go(g.settle)
		if g.open() {
			g.load()
		}
		settling.Wait()
		b.unlockGroup(g.groupName)
	}
	b.budget.leave(g.mayLoad)
	b.mu.Lock()
	b.budget.free(g.held)
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

// All functions from here to load are called with the broker's lock held.

// add gives the group a stream.
func (g *group) add(s *subscription) {
	g.setStreams(append(slices.Clone(g.streams), s))
	s.groups = append(s.groups, g)
	signal(g.mayLoad)
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
		signal(g.mayLoad)
		return
	}
	if !g.takeRecent(fullRoom) {
		g.hold(nil, fullRoom)
		signal(g.mayLoad)
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
	signal(g.mayLoad)
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

// give hands the stream the next event. If none can go out before more is read, load hears of it.
func (g *group) give(s *subscription) bool {
	d := g.next()
	if d == nil {
		if g.loads() {
			signal(g.mayLoad)
		}
		return false
	}
	d.stream = s
	s.add(d)
	return true
}

// canDeliver reports whether anything may go out at all.
func (g *group) canDeliver() bool {
	return g.state == groupOpen && len(g.unsettled)+g.writing < maxUnsettled && !(g.ordered && g.inFlight > 0)
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
		if !ends {
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

// finish records what became of an event that was in flight.
func (g *group) finish(d *delivery, s Settlement) {
	s.Sequence, s.Retry, s.partitionKey = d.Event.Sequence, d.retry, d.Event.PartitionKey
	g.inFlight--
	g.stalled = false
	g.drop(d)
	g.setRetrying(s.partitionKey, d.isRetrying(), s.Outcome == Retried)
	g.letGo(g.partitions.release(s.partitionKey))
	g.unsettled = append(g.unsettled, s)
	signal(g.maySettle)
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
	g.idle = append(g.idle, *redriven)
	// Those that were read lie behind it.
	for _, d := range g.redriven {
		g.drop(d)
		g.idle = append(g.idle, *d.retry)
	}
	g.redriven, g.moreRedriven = nil, true
}

// drop gives back what an event took of the budget.
func (g *group) drop(d *delivery) {
	g.held -= d.bytes
	g.broker.budget.free(d.bytes)
}

// loads reports whether load is about to read something.
func (g *group) loads() bool {
	return !g.stalled && g.toLoad(readAhead, g.broker.clock.Now()) != nothing
}

// toLoad returns what is to be read so that another event can go out. Of the events that were read and whose turn has not
// come, as many may be there as most says.
func (g *group) toLoad(most int, now time.Time) source {
	switch {
	case !g.canDeliver():
		return nothing
	case len(g.retries) < most && !g.nextRetry.IsZero() && !g.nextRetry.After(now):
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

// passTurn lets streams that wait for this group turn to their other ones.
func (g *group) passTurn() {
	for _, s := range g.streams {
		if s.waitsFor == g {
			s.waitsFor = nil
			s.fill()
		}
	}
}

// load reads what can go out whenever a stream has room for it, until the group ends.
func (g *group) load() {
	b := g.broker
	for g.ctx.Err() == nil {
		b.mu.Lock()
		g.stalled = false
		g.deliver()
		s, _ := g.slot()
		now := b.clock.Now()
		all, one := g.toLoad(readAhead, now), g.toLoad(1, now)
		mayExceed, next := s != nil && len(s.inFlight) == 0, g.nextRetry
		if !next.After(now) {
			// What is due is read now, or waits for something in flight.
			next = time.Time{}
		}
		select {
		case <-g.mayLoad: // It has been seen to.
		default:
		}
		b.mu.Unlock()

		loaded := false
		if s != nil && all != nothing {
			var err error
			if loaded, err = g.read(all, one, mayExceed); err != nil && g.ctx.Err() == nil {
				b.log.Error("events could not be read", "topic", g.topic, "group", g.group, "error", err)
				next = earliest(next, b.clock.Now().Add(enginePause))
			}
		}
		if loaded {
			select {
			case do := <-g.asks:
				do()
			default:
			}
			continue
		}
		b.mu.Lock()
		g.stalled = s != nil && all != nothing
		g.passTurn()
		b.mu.Unlock()
		b.budget.passOn()
		due, cancelTimer := alarm(b.clock, next)
		select {
		case <-g.mayLoad:
		case <-due:
		case do := <-g.asks:
			do()
		case <-g.ctx.Done():
		}
		cancelTimer()
	}
}

// read brings events from the engine, or returns false: there was no room for them, and the group is woken when there is
// some. mayExceed allows one event without room.
func (g *group) read(all, one source, mayExceed bool) (loaded bool, err error) {
	budget := g.broker.budget
	from, r := all, fullRoom
	if !budget.take(readAheadBytes) {
		from, r = one, room{limit: 1}
		if from == nothing || !mayExceed {
			budget.wait(g.mayLoad)
			return false, nil
		}
	}
	switch from {
	case dueRetries:
		err = g.readRetries(r)
	case redrivenEvents:
		err = g.readRedriven(r)
	case freedKeys:
		err = g.readFreed(r)
	case logEvents:
		err = g.readLog(r)
	}
	return err == nil, err
}

// room is how many events may be read, of how many bytes but for the first, and what is reserved of the budget for them.
type room struct{ limit, maxBytes, reserved int }

var fullRoom = room{limit: readAhead, maxBytes: readAheadBytes, reserved: readAheadBytes}

// hold counts what was read, in the place of what was reserved for it. It is called with the broker's lock held.
func (g *group) hold(read []*delivery, r room) []*delivery {
	bytes := 0
	for _, d := range read {
		bytes += d.bytes
	}
	g.held += bytes
	if bytes > r.reserved {
		g.broker.budget.exceed(bytes - r.reserved)
	} else {
		g.broker.budget.free(r.reserved - bytes)
	}
	return read
}

func (g *group) fromLog(events []Event) []*delivery {
	all := make([]delivery, len(events))
	read := make([]*delivery, len(events))
	for i := range events {
		all[i] = delivery{Delivery: Delivery{Event: events[i], Count: 1}, group: g, bytes: events[i].size()}
		read[i] = &all[i]
	}
	return read
}

func (g *group) fromRetries(retries []Retry) []*delivery {
	read := make([]*delivery, len(retries))
	for i := range retries {
		r := &retries[i]
		read[i] = &delivery{
			Delivery: Delivery{Event: r.Event, Count: r.History.Deliveries + 1}, group: g,
			retry: &r.Key, history: r.History, agesAt: r.AgesAt, after: r.After, bytes: r.Event.size() + r.History.size(),
		}
		g.busy[r.Key] = struct{}{}
	}
	return read
}

// isBusy is the engine's to ask while it reads for load.
func (g *group) isBusy(k RetryKey) bool {
	_, busy := g.busy[k]
	return busy
}

// forgetIdle is called with the broker's lock held.
func (g *group) forgetIdle() {
	for _, k := range g.idle {
		delete(g.busy, k)
	}
	g.idle = nil
}

func (g *group) readRetries(r room) error {
	b := g.broker
	b.mu.Lock()
	g.forgetIdle()
	// What is settled while the engine reads sets it anew.
	g.nextRetry = time.Time{}
	b.mu.Unlock()
	now := b.clock.Now()
	retries, next, err := b.engine.ReadRetries(g.ctx, g.topic, g.group, now, g.isBusy, r.limit, r.maxBytes)
	if err != nil {
		retries, next = nil, now
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g.retries = append(g.retries, g.hold(g.fromRetries(retries), r)...)
	g.nextRetry = earliest(g.nextRetry, next)
	return err
}

func (g *group) readRedriven(r room) error {
	b := g.broker
	b.mu.Lock()
	g.forgetIdle()
	g.moreRedriven = false
	b.mu.Unlock()
	redriven, err := b.engine.ReadRedriven(g.ctx, g.topic, g.group, g.isBusy, r.limit, r.maxBytes)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || g.moreRedriven {
		// There may be some now that come before what was read.
		redriven, g.moreRedriven = nil, true
	}
	g.redriven = append(g.redriven, g.hold(g.fromRetries(redriven), r)...)
	g.moreRedriven = g.moreRedriven || len(redriven) > 0
	return err
}

// readFreed reads the first event that a key blocked which has come free.
func (g *group) readFreed(r room) error {
	b := g.broker
	b.mu.Lock()
	key := g.freed[0]
	after, known := g.partitions.firstBlocked(key)
	b.mu.Unlock()
	if known {
		r.limit = 1
	}
	events, _, err := b.engine.ReadLog(g.ctx, g.topic, g.group, after, r.limit, r.maxBytes)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		g.hold(nil, r)
		return err
	}
	var read []*delivery
	p := g.partitions[key]
	switch {
	case !known:
		p.look(key, events)
	case len(events) > 0 && events[0].Sequence == after+1 && p.free():
		read = g.fromLog(events)
		p.unblock(firstRead)
	case p.free():
		// It has grown too old meanwhile, or its group was removed.
		p.unblock(firstOnDisk)
	}
	g.unblocked = append(g.unblocked, g.hold(read, r)...)
	if known || !p.hasBlocked() {
		g.freed = g.freed[1:]
		if p.first == firstWanted {
			p.first = firstOnDisk
		}
		g.letGo(g.partitions.whenFree(key))
	}
	return nil
}

func (g *group) readLog(r room) error {
	b := g.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if g.toLoad(1, b.clock.Now()) != logEvents {
		// What was published meanwhile went out at once.
		g.hold(nil, r)
		return nil
	}
	if g.takeRecent(r) {
		return nil
	}
	g.appended, g.readingLog = 0, true
	after := g.cursor
	b.mu.Unlock()
	events, upTo, err := b.engine.ReadLog(g.ctx, g.topic, g.group, after, r.limit, r.maxBytes)
	if err != nil {
		events, upTo = nil, 0
	}
	b.mu.Lock()
	g.readingLog = false
	g.cursor = max(g.cursor, upTo)
	if len(events) == 0 && err == nil {
		// That was all, but for what was appended meanwhile.
		g.end = max(g.cursor, g.appended)
	}
	g.fresh = g.hold(g.fromLog(events), r)
	return err
}

// settle writes down what has ended, as much at a time as has gathered, until the group ends, and then once more what is
// left. What cannot be written then is delivered again some day: an ack that is lost never loses an event.
func (g *group) settle() {
	for {
		select {
		case <-g.maySettle:
			g.flush()
			continue
		default:
		}
		select {
		case <-g.maySettle:
			g.flush()
		case <-g.ctx.Done():
			g.flush()
			return
		}
	}
}

func (g *group) flush() {
	b := g.broker
	for {
		b.mu.Lock()
		batch := g.unsettled
		g.unsettled, g.writing = nil, len(batch)
		b.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		gone, err := b.engine.Settle(context.Background(), g.topic, g.group, batch)
		for err != nil {
			b.log.Error("acknowledgements could not be written", "topic", g.topic, "group", g.group, "count", len(batch), "error", err)
			select {
			case <-b.clock.After(enginePause):
			case <-g.ctx.Done():
				return
			}
			gone, err = b.engine.Settle(context.Background(), g.topic, g.group, batch)
		}
		b.mu.Lock()
		g.settled(batch, gone)
		b.mu.Unlock()
	}
}

// settled takes note of what was written down. It is called with the broker's lock held.
func (g *group) settled(batch []Settlement, gone []int) {
	wasFull := len(g.unsettled)+g.writing >= maxUnsettled
	g.writing = 0
	// Acks alone bring nothing that could be delivered.
	changed := wasFull || len(gone) > 0
	for i := range batch {
		s := &batch[i]
		if s.Retry != nil {
			g.idle = append(g.idle, *s.Retry)
			changed = true
		}
		if s.Outcome == Retried {
			g.nextRetry = earliest(g.nextRetry, s.Due)
			changed = true
		}
		if ended := s.Outcome == Expired || s.Outcome == Dead; ended && !slices.Contains(gone, i) {
			g.counts.ended(s)
		}
	}
	for _, i := range gone {
		// There is no retry that anything could have to wait for.
		if s := &batch[i]; s.Outcome == Retried {
			g.setRetrying(s.partitionKey, true, false)
			g.letGo(g.partitions.whenFree(s.partitionKey))
		}
	}
	if changed {
		g.deliver()
		signal(g.mayLoad)
	}
}
