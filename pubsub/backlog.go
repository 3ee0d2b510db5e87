package pubsub

import (
	"slices"
	"time"
)

const (
	// maxParked bounds the events that are known to wait for an earlier one with their partition key, and
	// maxParkedBytes those keys. Beyond that, the log is not read on.
	maxParked      = 1024
	maxParkedBytes = 1 << 20
)

// backlog is what a queue's run goroutine has read from the engine and not handed out yet.
type backlog struct {
	// cursor is the sequence up to which the log was read.
	cursor uint64
	fresh  []Event
	// parked are the events of the log whose partition key is taken, in order. They stay on disk meanwhile.
	parked      []parkedEvent
	parkedKeys  map[string]int
	parkedBytes int
	retries     []Retry
	redriven    []Retry
	// mayExceed says that one event may be read even if there is no room for it; refused, that something was not read
	// for want of room.
	mayExceed, refused bool
}

type parkedEvent struct {
	sequence uint64
	key      string
}

// room says how many events may be read, and of how many bytes but for the first; reserved is for hold. No events: there
// is no room, and the queue is woken when there is some.
func (q *queue) room() (limit, maxBytes, reserved int) {
	if q.broker.budget.take(readAheadBytes) {
		return readAhead, readAheadBytes, readAheadBytes
	}
	if q.backlog.mayExceed {
		return 1, 0, 0
	}
	q.backlog.refused = true
	q.broker.budget.wait(q)
	return 0, 0, 0
}

// holdRetries is hold of what was read.
func (q *queue) holdRetries(read []Retry, reserved int) {
	bytes := 0
	for i := range read {
		bytes += read[i].size()
	}
	q.hold(bytes, reserved)
}

func (r *Retry) size() int { return r.Event.size() + r.History.size() }

// next returns the event to hand out now, counted as in hand, or nil.
func (q *queue) next(now time.Time) (*item, error) {
	for {
		it, err := q.candidate(now)
		if it == nil || err != nil || q.ctx.Err() != nil {
			// What was read for a queue that has ended stays on disk.
			return nil, err
		}
		settlement := Settlement{Outcome: Dead, History: it.history, At: now}
		// Who redrives an event wants it delivered, whatever its time.
		expired := it.event.ExpiredAt(now) && it.history.Redriven == 0
		switch {
		case it.event.Unreadable != "":
			settlement.Reason = ReasonUnreadable
		case expired && q.keepsExpired():
			settlement.Reason = ReasonExpired
		case expired:
			settlement = Settlement{Outcome: Expired}
		case it.aged:
			settlement.Reason = ReasonMaxAge
		default:
			return it, nil
		}
		// It ends without a delivery.
		q.settle(&Delivery{Event: it.event, retry: it.retry, history: it.history, bytes: it.bytes}, settlement)
	}
}

// keepsExpired says whether an event whose time to live has run out becomes a dead letter.
func (q *queue) keepsExpired() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.keepExpired
}

// candidate looks at what was put back, then at due retries, at parked events, at redriven events whose turn has come,
// and at the log.
func (q *queue) candidate(now time.Time) (*item, error) {
	if q.blocked() {
		return nil, nil
	}
	if it := q.takeReturned(); it != nil {
		return it, nil
	}
	if err := q.readRetries(now); err != nil {
		return nil, err
	}
	if it := q.takeRetry(); it != nil {
		return it, nil
	}
	if q.heldByOrder() {
		return nil, nil
	}
	if it, err := q.takeParked(); it != nil || err != nil {
		return it, err
	}
	if it, err := q.takeRedriven(); it != nil || err != nil {
		return it, err
	}
	for len(q.backlog.parked) < maxParked && q.backlog.parkedBytes < maxParkedBytes {
		if err := q.readLog(); err != nil {
			return nil, err
		}
		if len(q.backlog.fresh) == 0 {
			return q.takeRedriven()
		}
		if it := q.takeFresh(); it != nil {
			return it, nil
		}
	}
	return nil, nil
}

// blocked says that nothing may go out at all: too much waits for the disk, or the group is ordered and has an event
// in hand.
func (q *queue) blocked() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.settler.waiting)+q.settler.writing >= maxUnsettled || q.inHand > 0 && q.ordered
}

// heldByOrder says that the log must wait for a retry.
func (q *queue) heldByOrder() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.holds.retrying > 0 && q.ordered
}

// atEnd says that the log has been read as far as anybody knows. It is called with q.mu held.
func (q *queue) atEnd() bool { return !q.log && q.grown <= q.backlog.cursor }

// hasNothing says that all there is to hand out is handed out, but for retries that are not due. It is called with q.mu
// held.
func (q *queue) hasNothing() bool {
	b := &q.backlog
	return q.atEnd() && len(b.fresh) == 0 && len(b.parked) == 0 && len(b.retries) == 0 && len(b.redriven) == 0 &&
		len(q.returned) == 0 && !q.redriven && !b.refused
}

// inHandNow counts an item as in hand. It is called with q.mu held.
func (q *queue) inHandNow(it item) *item {
	q.inHand++
	q.holds.take(it.event.PartitionKey)
	return &it
}

func (q *queue) takeReturned() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, it := range q.returned {
		if q.holds.again(it.event.PartitionKey) {
			q.returned = slices.Delete(q.returned, i, i+1)
			q.holds.comesAgain(it.event.PartitionKey)
			return q.inHandNow(it)
		}
	}
	return nil
}

func (q *queue) readRetries(now time.Time) error {
	q.mu.Lock()
	due := !q.nextRetry.IsZero() && !q.nextRetry.After(now)
	q.mu.Unlock()
	if !due || len(q.backlog.retries) >= readAhead {
		return nil
	}
	limit, maxBytes, reserved := q.room()
	if limit == 0 {
		return nil
	}
	if reserved == 0 && len(q.backlog.retries) > 0 {
		// One waits for another with its partition key already; it has the room that may be exceeded.
		q.backlog.refused = true
		q.broker.budget.wait(q)
		return nil
	}
	// Whatever is settled while the engine reads sets nextRetry anew.
	q.mu.Lock()
	q.nextRetry = time.Time{}
	q.reading = true
	q.mu.Unlock()
	retries, next, err := q.broker.engine.ReadRetries(q.ctx, q.topic, q.group, now, q.isBusy, limit, maxBytes)
	if err != nil {
		retries = nil
	}
	q.holdRetries(retries, reserved)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.hasRead(nil)
		q.nextRetry = now
		return err
	}
	q.hasRead(retries)
	q.backlog.retries = append(q.backlog.retries, retries...)
	q.nextRetry = earliest(q.nextRetry, next)
	return nil
}

func (q *queue) isBusy(k RetryKey) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, busy := q.busy[k]
	return busy
}

// hasRead ends what set q.reading. It is called with q.mu held.
func (q *queue) hasRead(retries []Retry) {
	for _, k := range q.settledMeanwhile {
		delete(q.busy, k)
	}
	q.reading, q.settledMeanwhile = false, nil
	for _, r := range retries {
		q.busy[r.Key] = struct{}{}
	}
}

func (q *queue) takeRetry() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, r := range q.backlog.retries {
		if q.holds.again(r.Event.PartitionKey) {
			q.backlog.retries = slices.Delete(q.backlog.retries, i, i+1)
			return q.inHandNow(item{event: r.Event, history: r.History, retry: &r.Key, aged: r.Aged, bytes: r.size()})
		}
	}
	return nil
}

// takeParked returns the first parked event whose key has come free.
func (q *queue) takeParked() (*item, error) {
	b := &q.backlog
	for {
		q.mu.Lock()
		i := slices.IndexFunc(b.parked, func(e parkedEvent) bool { return q.holds.first(e.key) })
		q.mu.Unlock()
		if i < 0 {
			return nil, nil
		}
		limit, _, reserved := q.room()
		if limit == 0 {
			return nil, nil
		}
		parked := b.parked[i]
		events, err := q.broker.engine.ReadLog(q.ctx, q.topic, q.group, parked.sequence-1, 1, 0)
		if err != nil {
			q.hold(0, reserved)
			return nil, err
		}
		b.parked = slices.Delete(b.parked, i, i+1)
		b.parkedBytes -= len(parked.key)
		decrement(b.parkedKeys, parked.key)
		if len(events) == 0 || events[0].Sequence != parked.sequence {
			// It has grown too old meanwhile, or its group was removed.
			q.hold(0, reserved)
			continue
		}
		e := events[0]
		q.hold(e.size(), reserved)
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.inHandNow(item{event: e, bytes: e.size()}), nil
	}
}

// takeRedriven returns the next redriven event if the log before it has been handed out.
func (q *queue) takeRedriven() (*item, error) {
	b := &q.backlog
	if len(b.redriven) == 0 {
		q.mu.Lock()
		some := q.redriven
		q.mu.Unlock()
		if !some {
			return nil, nil
		}
		limit, maxBytes, reserved := q.room()
		if limit == 0 {
			return nil, nil
		}
		q.mu.Lock()
		q.redriven = false
		q.reading = true
		q.mu.Unlock()
		read, err := q.broker.engine.ReadRedriven(q.ctx, q.topic, q.group, q.isBusy, limit, maxBytes)
		if err != nil {
			read = nil
		}
		q.holdRetries(read, reserved)
		q.mu.Lock()
		q.redriven = q.redriven || err != nil || len(read) > 0
		q.hasRead(read)
		q.mu.Unlock()
		if err != nil || len(read) == 0 {
			return nil, err
		}
		b.redriven = read
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	r := b.redriven[0]
	atEnd := len(b.fresh) == 0 && q.atEnd()
	reached := b.cursor >= r.After && (len(b.fresh) == 0 || b.fresh[0].Sequence > r.After)
	if !(atEnd || reached) || b.parkedKeys[r.Event.PartitionKey] > 0 || !q.holds.first(r.Event.PartitionKey) {
		return nil, nil
	}
	b.redriven = b.redriven[1:]
	return q.inHandNow(item{event: r.Event, history: r.History, retry: &r.Key, bytes: r.size()}), nil
}

// readLog fills the backlog when it is empty and the log may hold more.
func (q *queue) readLog() error {
	if len(q.backlog.fresh) > 0 {
		return nil
	}
	q.mu.Lock()
	atEnd := q.atEnd()
	q.mu.Unlock()
	if atEnd {
		return nil
	}
	limit, maxBytes, reserved := q.room()
	if limit == 0 {
		return nil
	}
	q.mu.Lock()
	log, grown := q.log, q.grown
	q.log = false
	q.mu.Unlock()
	events, err := q.broker.engine.ReadLog(q.ctx, q.topic, q.group, q.backlog.cursor, limit, maxBytes)
	bytes := 0
	for i := range events {
		bytes += events[i].size()
	}
	q.hold(bytes, reserved)
	if n := len(events); n > 0 {
		q.backlog.fresh, q.backlog.cursor = events, events[n-1].Sequence
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil || len(events) > 0:
		// What was read may not be all.
		q.log = q.log || log
	case q.grown == grown:
		// The events that were known of have left the group meanwhile.
		q.grown = 0
	}
	return err
}

// takeFresh returns the next event of the log, or parks it and returns nil.
func (q *queue) takeFresh() *item {
	b := &q.backlog
	e := b.fresh[0]
	b.fresh = b.fresh[1:]
	q.mu.Lock()
	defer q.mu.Unlock()
	// An ack may have freed the key since the parked events were looked at.
	if b.parkedKeys[e.PartitionKey] == 0 && q.holds.first(e.PartitionKey) {
		return q.inHandNow(item{event: e, bytes: e.size()})
	}
	q.drop(e.size())
	if b.parkedKeys == nil {
		b.parkedKeys = map[string]int{}
	}
	b.parkedKeys[e.PartitionKey]++
	b.parkedBytes += len(e.PartitionKey)
	b.parked = append(b.parked, parkedEvent{e.Sequence, e.PartitionKey})
	return nil
}
