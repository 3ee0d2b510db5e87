package pubsub

import (
	"context"
	"time"
)

// enginePause is the wait after the engine failed, for example on a full disk, before it is asked again.
const enginePause = time.Second

// settler writes a queue's settlements down, as many at a time as have gathered.
type settler struct {
	queue *queue
	wake  chan struct{}
	// waiting and writing are guarded by the queue's lock.
	waiting []Settlement
	writing int
}

// run writes until the queue stops, and then once more what is left. What cannot be written then is delivered again
// some day: an ack that is lost never loses an event.
func (s *settler) run() {
	q := s.queue
	for {
		select {
		case <-s.wake:
			s.flush()
			continue
		default:
		}
		select {
		case <-s.wake:
			s.flush()
		case <-q.ctx.Done():
			s.flush()
			return
		}
	}
}

func (s *settler) flush() {
	q := s.queue
	for {
		q.mu.Lock()
		batch := s.waiting
		s.waiting, s.writing = nil, len(batch)
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		var gone []int
		for {
			var err error
			gone, err = q.broker.engine.Settle(context.Background(), q.topic, q.group, batch)
			if err == nil {
				break
			}
			q.broker.log.Error("acknowledgements could not be written", "topic", q.topic, "group", q.group, "count", len(batch), "error", err)
			select {
			case <-q.broker.clock.After(enginePause):
			case <-q.ctx.Done():
				return
			}
		}
		q.mu.Lock()
		// Acks alone bring nothing that could be delivered, unless too many have been waiting.
		wake := !q.starved || len(gone) > 0
		s.writing = 0
		for _, i := range gone {
			// There is no retry that anything could have to wait for.
			if batch[i].Outcome == Retried {
				q.holds.settle(batch[i].partitionKey, true, false)
			}
		}
		for i := range batch {
			settled := &batch[i]
			wake = wake || settled.Retry != nil || settled.Outcome == Retried
			switch {
			case settled.Retry == nil:
			case q.reading:
				q.settledMeanwhile = append(q.settledMeanwhile, *settled.Retry)
			default:
				delete(q.busy, *settled.Retry)
			}
			if settled.Outcome == Retried {
				q.nextRetry = earliest(q.nextRetry, settled.Due)
			}
		}
		q.mu.Unlock()
		if wake {
			signal(q.wake)
		}
	}
}
