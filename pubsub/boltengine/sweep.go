package boltengine

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// maxStepBytes bounds what one step copies.
const maxStepBytes = 4 << 20

// budget bounds one step: how many entries it may touch, and how many bytes it may copy, but for the first entry.
type budget struct {
	entries, bytes int
	// used says that something was taken, exhausted that something could not be.
	used, exhausted bool
	// buried are the events that the step has made dead letters.
	buried []pubsub.AgedEvent
}

func newBudget(entries int) *budget { return &budget{entries: entries, bytes: maxStepBytes} }

// take reports whether the step may touch one more entry, and copy so many bytes.
func (s *budget) take(bytes int) bool {
	if s.entries <= 0 || s.used && bytes > s.bytes {
		s.exhausted = true
		return false
	}
	s.entries--
	s.bytes -= bytes
	s.used = true
	return true
}

// Sweep implements pubsub.Engine. It goes on with what a process that was killed has not removed.
func (e *Engine) Sweep(ctx context.Context, now time.Time, limit int) (more bool, err error) {
	return e.step(ctx, limit, func(b *buckets, step *budget) error {
		if err := b.sweepIDs(now, step); err != nil {
			return err
		}
		return b.cleanRemoved(step)
	})
}

// step runs one bounded step of maintenance, and reports whether there is more to do.
func (e *Engine) step(ctx context.Context, limit int, do func(b *buckets, step *budget) error) (more bool, err error) {
	err = e.updateDeferred(ctx, func(b *buckets) error {
		step := newBudget(limit)
		err := do(b, step)
		more = step.exhausted
		return err
	})
	return more, err
}

// BuryAged implements pubsub.Engine. It trims what every group is done with, too.
func (e *Engine) BuryAged(ctx context.Context, now time.Time, limit int, lock func(topic, group string) bool) (buried []pubsub.AgedEvent, more bool, err error) {
	retries, err := e.agedRetries(now, limit)
	if err != nil {
		return nil, false, err
	}
	more, err = e.step(ctx, limit, func(b *buckets, step *budget) error {
		if err := b.buryAgedInLogs(now, step); err != nil {
			return err
		}
		for _, r := range retries {
			if !step.exhausted && lock(r.topic, r.group) {
				if err := b.buryRetry(r, now, step); err != nil {
					return err
				}
			}
		}
		buried = step.buried
		return nil
	})
	return buried, more, err
}

// buryAgedInLogs takes out of the topics what is too old, and what every group is done with.
func (b *buckets) buryAgedInLogs(now time.Time, step *budget) error {
	topics, err := b.listTopics()
	if err != nil {
		return err
	}
	for _, t := range topics {
		if step.exhausted {
			return nil
		}
		if t.First > t.Last {
			continue
		}
		before := t
		if err := b.ageLog(&t, now, step); err != nil {
			return err
		}
		if err := b.trim(&t.topicRecord, step); err != nil {
			return err
		}
		if t != before {
			b.putTopic(t.name, t.topicRecord)
		}
	}
	return nil
}

// ageLog takes events that are older than the topic keeps them out of it. Each goes to the dead letters of the groups that
// still owe it.
func (b *buckets) ageLog(t *namedTopic, now time.Time, step *budget) error {
	aged := b.countAged(&t.topicRecord, now, step.entries+1)
	if aged == 0 {
		return nil
	}
	groups, err := b.groupsOf(t.ID)
	if err != nil {
		return err
	}
	for ; aged > 0; aged-- {
		event := bytes.Clone(b.first(&t.topicRecord))
		if !step.take(len(event) * len(groups)) {
			break
		}
		for _, g := range groups {
			if t.First <= g.Done || b.done().Get(sequenceKey(g.ID, t.First)) != nil {
				continue
			}
			if err := b.buryAged(groupName{t.name, g.name}, t.First, event, historyRecord{}, now, step); err != nil {
				return err
			}
		}
		if err := b.dropFirst(&t.topicRecord); err != nil {
			return err
		}
	}
	for _, g := range groups {
		g.Done = max(g.Done, t.First-1)
		if err := b.absorbDone(&g.groupRecord); err != nil {
			return err
		}
		if err := b.putGroup(t.ID, g.name, g.groupRecord); err != nil {
			return err
		}
	}
	return nil
}

// countAged counts the first events of the log that are too old, at most limit of them. One that cannot be read is as old
// as the next that can; where so many cannot, they are not looked past.
func (b *buckets) countAged(t *topicRecord, now time.Time, limit int) (aged int) {
	if t.MaxAge <= 0 {
		return 0
	}
	n := 0
	for _, v := range underFrom(b.log(), idKey(t.ID), sequenceKey(t.ID, t.First)) {
		n++
		e, err := decodeTimes(v)
		if err == nil && !t.aged(e.availableAt(), 0, now) {
			break
		}
		if err == nil || n == limit {
			aged = n
		}
		if n == limit {
			break
		}
	}
	return aged
}

// retryScan remembers where the next sweep goes on to look through the retries; nil: at the first.
type retryScan struct {
	mu   sync.Mutex
	from []byte
}

// scanned is how many retries one sweep looks at for each that it may bury: retries lie in the order in which they are
// due, so the aged ones stand anywhere among them.
const scanned = 16

// agedRetry is a retry that may be too old.
type agedRetry struct {
	groupName
	key []byte
}

// agedRetries looks through the next part of the retries, without keeping the writer from its work, and returns at
// most limit of those that are too old, or cannot be read: such a one is not to wait for a group that may never come back.
func (e *Engine) agedRetries(now time.Time, limit int) (aged []agedRetry, err error) {
	e.ageing.mu.Lock()
	defer e.ageing.mu.Unlock()
	err = e.read(func(b *buckets) error {
		c := b.retry().Cursor()
		k, v := c.Seek(e.ageing.from)
		if k == nil {
			k, v = c.First()
		}
		e.ageing.from = nil
		if k == nil {
			return nil
		}
		owners, err := b.owners()
		if err != nil {
			return err
		}
		for n := 0; k != nil; k, v = c.Next() {
			if n++; n > scanned*limit || len(aged) == limit {
				e.ageing.from = bytes.Clone(k)
				return nil
			}
			group, _, err := parseRetryKey(k)
			owner, ok := owners[group]
			if err != nil || !ok {
				continue
			}
			r := decodeRetryRecord(v)
			times, err := decodeTimes(r.Event)
			if err != nil || owner.topicRecord.aged(times.availableAt(), r.History.Redriven, now) {
				aged = append(aged, agedRetry{owner.groupName, bytes.Clone(k)})
			}
		}
		return nil
	})
	return aged, err
}

// owner is whose retries carry a group's number.
type owner struct {
	groupName
	topicRecord
}

func (b *buckets) owners() (map[uint32]owner, error) {
	topics, err := b.listTopics()
	if err != nil {
		return nil, err
	}
	owners := map[uint32]owner{}
	for _, t := range topics {
		groups, err := b.groupsOf(t.ID)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			owners[g.ID] = owner{groupName{t.name, g.name}, t.topicRecord}
		}
	}
	return owners, nil
}

// buryRetry makes a dead letter of a retry, unless it has been settled since it was looked at.
func (b *buckets) buryRetry(aged agedRetry, now time.Time, step *budget) error {
	t, ok, err := b.topic(aged.topic)
	if err != nil || !ok || !step.take(len(b.retry().Get(aged.key))) {
		return err
	}
	r, ok, err := b.takeRetry(&t, aged.key)
	if err != nil || !ok {
		return err
	}
	b.putTopic(aged.topic, t)
	return b.buryAged(aged.groupName, sequenceOf(aged.key), r.Event, r.History, now, step)
}

func (b *buckets) buryAged(of groupName, sequence uint64, event []byte, history historyRecord, now time.Time, step *budget) error {
	step.buried = append(step.buried, pubsub.AgedEvent{Topic: of.topic, Group: of.group})
	return b.bury(of, sequence, event, history, pubsub.ReasonMaxAge, now)
}
