package pubsub

import (
	"context"
	"slices"
)

// maxUnsettled bounds the settlements that wait for the disk; beyond it, nothing more is delivered.
const maxUnsettled = 4096

// settler writes down what became of a group's deliveries. run alone writes to the engine; the broker's lock guards the
// rest and is not held meanwhile.
type settler struct {
	group *group
	wake  chan struct{}
	// waiting is for run, which is writing so many.
	waiting []Settlement
	writing int
}

func newSettler(g *group) settler { return settler{group: g, wake: make(chan struct{}, 1)} }

// add takes a settlement. It is called with the broker's lock held, as is full.
func (w *settler) add(s Settlement) {
	w.waiting = append(w.waiting, s)
	signal(w.wake)
}

// full reports whether nothing is to be delivered before more is written down.
func (w *settler) full() bool { return len(w.waiting)+w.writing >= maxUnsettled }

// run writes down what has ended, as much at a time as has gathered, until the group ends, and then once more what is left.
// What cannot be written then is delivered again some day: an ack that is lost never loses an event.
func (w *settler) run() {
	for {
		select {
		case <-w.wake:
			w.flush()
		case <-w.group.ctx.Done():
			w.flush()
			return
		}
	}
}

func (w *settler) flush() {
	g := w.group
	b := g.broker
	for {
		b.mu.Lock()
		batch := w.waiting
		w.waiting, w.writing = nil, len(batch)
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
		wasFull := w.full()
		w.writing = 0
		// Acks alone bring nothing that could be delivered.
		if g.settled(batch, gone) || wasFull {
			g.deliver()
			g.loader.wakeUp()
		}
		b.mu.Unlock()
	}
}

// settled takes note of what was written down, and reports whether that may let something go out. It is called with the
// broker's lock held.
func (g *group) settled(batch []Settlement, gone []int) (changed bool) {
	for i := range batch {
		s := &batch[i]
		if s.Retry != nil {
			g.loader.forget(*s.Retry)
			changed = true
		}
		if s.Outcome == Retried {
			g.nextRetry = earliest(g.nextRetry, s.Due)
			if g.ackedLate(s.Sequence) {
				g.acked = append(g.acked, g.late[s.Sequence])
			}
			changed = true
		}
		if ended := s.Outcome == Expired || s.Outcome == Dead; ended && !slices.Contains(gone, i) {
			g.counts.ended(s)
		}
	}
	for _, i := range gone {
		// There is no retry that anything could have to wait for.
		if s := &batch[i]; s.Outcome == Retried {
			delete(g.late, s.Sequence)
			g.setRetrying(s.partitionKey, true, false)
			g.letGo(g.partitions.whenFree(s.partitionKey))
		}
	}
	return changed || len(gone) > 0
}
