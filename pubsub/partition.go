package pubsub

import (
	"cmp"
	"slices"
)

// maxBlockedKnown bounds the events of one partition key that are known to be blocked. Those beyond it are looked for in
// the log when their turn comes.
const maxBlockedKnown = 64

// partitions say which partition keys hold their events back, so that order is kept: a key with an event in flight, put
// back, or being retried blocks later ones. Blocked events stay on disk. Events without a key hold nothing back.
type partitions map[string]*partition

// partition is what is known of one key; one of which nothing is known is not there.
type partition struct {
	// inFlight, returned and retrying count the key's events in those states.
	inFlight, returned, retrying int

	// blocked are the first events of the log that wait for their turn; the others lie after scanned, up to last.
	blocked       []uint64
	scanned, last uint64
	first         firstState
	// redriven are redriven events that wait on disk, in their order. When the key comes free, the first of them is read.
	redriven []RetryKey
}

// firstState is where the first of the blocked events is.
type firstState int

const (
	// firstOnDisk: it waits until the key comes free.
	firstOnDisk firstState = iota
	// firstWanted: the key came free, and it is to be read.
	firstWanted
	// firstRead: it was read, and goes out next unless something else of the key does.
	firstRead
)

func (p *partition) free() bool { return p.inFlight+p.returned+p.retrying == 0 }

// hasBlocked reports whether events of the log wait, besides one that was read.
func (p *partition) hasBlocked() bool { return len(p.blocked) > 0 || p.scanned < p.last }

// of returns what is known of a key; the caller must change it, so that it is worth knowing.
func (ps partitions) of(key string) *partition {
	p := ps[key]
	if p == nil {
		p = &partition{}
		ps[key] = p
	}
	return p
}

// canRedeliver reports whether an event may go out that was delivered before.
func (ps partitions) canRedeliver(d *delivery) bool {
	p := ps[d.Event.PartitionKey]
	return p == nil || p.inFlight == 0
}

// canDeliverFirst reports whether the first blocked event of its key may go out.
func (ps partitions) canDeliverFirst(d *delivery) bool {
	p := ps[d.Event.PartitionKey]
	return p == nil || p.free()
}

// canDeliver reports whether an event of the log may go out.
func (ps partitions) canDeliver(d *delivery) bool {
	p := ps[d.Event.PartitionKey]
	return p == nil || p.free() && !p.hasBlocked() && p.first == firstOnDisk
}

// canDeliverRedriven reports whether a redriven event may go out: the key is free, and what waits came after it.
func (ps partitions) canDeliverRedriven(d *delivery) bool {
	p := ps[d.Event.PartitionKey]
	switch {
	case p == nil:
		return true
	case !p.free() || p.first == firstRead || len(p.redriven) > 0 && p.redriven[0].Order < d.retry.Order:
		return false
	case len(p.blocked) > 0:
		return p.blocked[0] > d.after
	default:
		return !p.hasBlocked() || p.scanned >= d.after
	}
}

// takeOff follows an event that goes out.
func (ps partitions) takeOff(d *delivery) {
	key := d.Event.PartitionKey
	if key == "" {
		return
	}
	p := ps.of(key)
	p.inFlight++
	if p.first == firstRead && d.retry == nil {
		p.first = firstOnDisk
	}
}

// release follows an event that has ended.
func (ps partitions) release(key string) (_ string, first bool, redriven *RetryKey) {
	if key == "" {
		return key, false, nil
	}
	ps[key].inFlight--
	return ps.whenFree(key)
}

// whenFree returns, once the key is free, whether its first blocked event is to be read now, and which redriven one, if any.
func (ps partitions) whenFree(key string) (_ string, first bool, redriven *RetryKey) {
	p := ps[key]
	if p == nil || !p.free() {
		return key, false, nil
	}
	if len(p.redriven) > 0 {
		redriven, p.redriven = &p.redriven[0], p.redriven[1:]
	}
	if first = p.first == firstOnDisk && p.hasBlocked(); first {
		p.first = firstWanted
	}
	if p.first == firstOnDisk && !p.hasBlocked() && len(p.redriven) == 0 {
		delete(ps, key)
	}
	return key, first, redriven
}

// putBack follows an event from a stream back to the group; retake, the other way.
func (ps partitions) putBack(key string) {
	if key != "" {
		p := ps[key]
		p.inFlight--
		p.returned++
	}
}

func (ps partitions) retake(key string) {
	if key != "" {
		ps[key].returned--
	}
}

func (ps partitions) addRetrying(key string, n int) {
	if key != "" && n != 0 {
		ps.of(key).retrying += n
	}
}

// block notes an event of the log that must wait.
func (ps partitions) block(d *delivery) {
	p, sequence := ps[d.Event.PartitionKey], d.Event.Sequence
	if p.scanned >= p.last && len(p.blocked) < maxBlockedKnown {
		p.blocked = append(p.blocked, sequence)
		p.scanned = sequence
	}
	p.last = sequence
}

// blockRedriven notes a redriven event that must wait.
func (ps partitions) blockRedriven(d *delivery) {
	p := ps[d.Event.PartitionKey]
	at, _ := slices.BinarySearchFunc(p.redriven, d.retry.Order, func(k RetryKey, order int64) int { return cmp.Compare(k.Order, order) })
	p.redriven = slices.Insert(p.redriven, at, *d.retry)
}

// firstBlocked returns the sequence after which the key's first blocked event is to be read: right there, if that is
// known, or somewhere behind it.
func (ps partitions) firstBlocked(key string) (after uint64, known bool) {
	p := ps[key]
	if len(p.blocked) > 0 {
		return p.blocked[0] - 1, true
	}
	return p.scanned, false
}

// look finds the key's events among the next ones of the log, where it knows of some.
func (p *partition) look(key string, events []Event) {
	for i := range events {
		e := &events[i]
		if e.Sequence > p.last {
			events = nil
			break
		}
		if e.PartitionKey == key {
			if len(p.blocked) == maxBlockedKnown {
				return
			}
			p.blocked = append(p.blocked, e.Sequence)
		}
		p.scanned = e.Sequence
	}
	if len(events) == 0 {
		p.scanned = p.last
	}
}

// unblock takes the first blocked event off the list.
func (p *partition) unblock(first firstState) {
	p.blocked = p.blocked[1:]
	p.first = first
}
