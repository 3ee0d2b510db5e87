package pubsub

import (
	"context"
	"errors"
	"time"
)

const (
	// readAhead bounds the events that a group reads from the engine at a time.
	readAhead = 64
	// readAheadBytes bounds their size, but for the first.
	readAheadBytes = 1 << 20
)

// loader reads from the engine what can go out of a group. run alone reads, what toLoad says; the broker's lock guards what
// it reads into, and is not held meanwhile.
type loader struct {
	group *group
	wake  chan struct{}
	// asks are what others want done between two reads.
	asks chan func()
	// stalled: there was no room for what would be read, or the engine failed. It is tried again when something changes. The
	// broker's lock guards it, and idle.
	stalled bool
	// busy are the retries and redriven events that were read: they stay on disk until they are settled. Those in idle are
	// taken out before the next read. By then they are gone from the disk, also as the engine sees it.
	busy map[RetryKey]struct{}
	idle []RetryKey
}

func newLoader(g *group) loader {
	return loader{group: g, wake: make(chan struct{}, 1), asks: make(chan func()), busy: map[RetryKey]struct{}{}}
}

func (l *loader) wakeUp() { signal(l.wake) }

// ask has fn run between two reads, and returns its error. asked is false if the group has ended.
func (l *loader) ask(ctx context.Context, fn func() error) (asked bool, err error) {
	answered := make(chan error, 1)
	select {
	case l.asks <- func() { answered <- fn() }:
		return true, <-answered
	case <-l.group.done:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// forget says that a retry which was read is settled, or may be read again. It is called with the broker's lock held.
func (l *loader) forget(k RetryKey) { l.idle = append(l.idle, k) }

// forgetIdle is called with the broker's lock held, by what run runs.
func (l *loader) forgetIdle() {
	for _, k := range l.idle {
		delete(l.busy, k)
	}
	l.idle = nil
}

// isBusy is the engine's to ask while it reads.
func (l *loader) isBusy(k RetryKey) bool {
	_, busy := l.busy[k]
	return busy
}

// source is what the loader reads next.
type source int

const (
	nothing source = iota
	ackedRetries
	dueRetries
	freedKeys
	redrivenEvents
	logEvents
)

// run reads what can go out whenever a stream has room for it, until the group ends.
func (l *loader) run() {
	g := l.group
	b := g.broker
	for g.ctx.Err() == nil {
		b.mu.Lock()
		l.stalled = false
		g.deliver()
		s, _ := g.slot()
		now := b.clock.Now()
		all, one := g.toLoad(readAhead, now), g.toLoad(1, now)
		mayExceed, next := s != nil && len(s.inFlight) == 0, g.nextRetry
		if g.isDue(next, now) {
			// What is due is read now, or waits for something in flight.
			next = time.Time{}
		}
		select {
		case <-l.wake: // It has been seen to.
		default:
		}
		b.mu.Unlock()

		loaded := false
		if s != nil && all != nothing {
			var err error
			if loaded, err = l.read(all, one, mayExceed); err != nil && g.ctx.Err() == nil {
				b.log.Error("events could not be read", "topic", g.topic, "group", g.group, "error", err)
				next = earliest(next, b.clock.Now().Add(enginePause))
			}
		}
		if loaded {
			select {
			case do := <-l.asks:
				do()
			default:
			}
			continue
		}
		b.mu.Lock()
		l.stalled = s != nil && all != nothing
		g.passTurn()
		b.mu.Unlock()
		b.budget.passOn()
		due, cancelTimer := alarm(b.clock, next)
		select {
		case <-l.wake:
		case <-due:
		case do := <-l.asks:
			do()
		case <-g.ctx.Done():
		}
		cancelTimer()
	}
}

// read brings events from the engine, or returns false: there was no room for them, and the group is woken when there is
// some. mayExceed allows one event without room.
func (l *loader) read(all, one source, mayExceed bool) (loaded bool, err error) {
	budget := l.group.broker.budget
	from, r := all, fullRoom
	if !budget.take(readAheadBytes) {
		from, r = one, room{limit: 1}
		if from == nothing || !mayExceed {
			budget.wait(l.wake)
			return false, nil
		}
	}
	switch from {
	case ackedRetries:
		err = l.endAcked(r)
	case dueRetries:
		err = l.readRetries(r)
	case redrivenEvents:
		err = l.readRedriven(r)
	case freedKeys:
		err = l.readFreed(r)
	case logEvents:
		err = l.readLog(r)
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
		g.broker.budget.Exceed(bytes - r.reserved)
	} else {
		g.broker.budget.Free(r.reserved - bytes)
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

func (l *loader) fromRetries(retries []Retry) []*delivery {
	read := make([]*delivery, len(retries))
	for i := range retries {
		r := &retries[i]
		read[i] = &delivery{
			Delivery: Delivery{Event: r.Event, Count: r.History.Deliveries + 1}, group: l.group,
			retry: &r.Key, history: r.History, agesAt: r.AgesAt, after: r.After, bytes: r.Event.size() + r.History.size(),
		}
		l.busy[r.Key] = struct{}{}
	}
	return read
}

// endAcked lets a retry end now that was acknowledged late: it is read as one that is due. One that was read already ends when its
// turn comes, and one that is not written down yet comes here again.
func (l *loader) endAcked(r room) error {
	g := l.group
	b := g.broker
	b.mu.Lock()
	g.hold(nil, r)
	l.forgetIdle()
	key := g.acked[0].retry
	g.acked = g.acked[1:]
	b.mu.Unlock()
	if l.isBusy(key) {
		return nil
	}
	now := b.clock.Now()
	if err := b.engine.MoveRetry(g.ctx, g.topic, g.group, key, now); err != nil {
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	}
	b.mu.Lock()
	g.nextRetry = now
	b.mu.Unlock()
	return nil
}

func (l *loader) readRetries(r room) error {
	g := l.group
	b := g.broker
	b.mu.Lock()
	l.forgetIdle()
	// What is settled while the engine reads sets it anew.
	g.nextRetry = time.Time{}
	b.mu.Unlock()
	now := b.clock.Now()
	retries, next, err := b.engine.ReadRetries(g.ctx, g.topic, g.group, now, l.isBusy, r.limit, r.maxBytes)
	b.mu.Lock()
	isDue := err == nil && len(retries) == 0 && g.isDue(next, now)
	b.mu.Unlock()
	if isDue { // the clock was set back
		retries, next, err = b.engine.ReadRetries(g.ctx, g.topic, g.group, next, l.isBusy, r.limit, r.maxBytes)
	}
	if err != nil {
		retries, next = nil, now
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g.retries = append(g.retries, g.hold(l.fromRetries(retries), r)...)
	g.nextRetry = earliest(g.nextRetry, next)
	return err
}

func (l *loader) readRedriven(r room) error {
	g := l.group
	b := g.broker
	b.mu.Lock()
	l.forgetIdle()
	g.moreRedriven = false
	b.mu.Unlock()
	redriven, err := b.engine.ReadRedriven(g.ctx, g.topic, g.group, l.isBusy, r.limit, r.maxBytes)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || g.moreRedriven {
		// There may be some now that come before what was read.
		redriven, g.moreRedriven = nil, true
	}
	g.redriven = append(g.redriven, g.hold(l.fromRetries(redriven), r)...)
	g.moreRedriven = g.moreRedriven || len(redriven) > 0
	return err
}

// readFreed reads the first event that a key blocked which has come free.
func (l *loader) readFreed(r room) error {
	g := l.group
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

func (l *loader) readLog(r room) error {
	g := l.group
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
