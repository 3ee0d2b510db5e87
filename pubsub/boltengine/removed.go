package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// removeStep bounds the records that one transaction removes of what was left behind.
const removeStep = 1024

// removedRecord is what a topic or a group has left behind that was removed: its name is free again at once, and its records
// go in small steps, which also a process that is killed meanwhile goes on with.
type removedRecord struct {
	// Topic's number; 0: the topic stays, and only the groups go.
	Topic uint32 `cbor:"1,keyasint,omitempty"`
	// Groups are their numbers.
	Groups []uint32 `cbor:"2,keyasint,omitempty"`
	// TopicName and GroupName say whose dead letters go, up to the id Dead; GroupName empty: those of all groups.
	TopicName string `cbor:"3,keyasint"`
	GroupName string `cbor:"4,keyasint,omitempty"`
	Dead      uint64 `cbor:"5,keyasint,omitempty"`
	// DeadDone and DelayedDone are up to where dead letters and delayed events were looked through.
	DeadDone    uint64 `cbor:"6,keyasint,omitempty"`
	DelayedDone []byte `cbor:"7,keyasint,omitempty"`
}

// leaveBehind notes what is to be removed in steps.
func (b *buckets) leaveBehind(r removedRecord) error {
	r.Dead = b.dead().Sequence()
	number, err := b.removed().NextSequence()
	if err != nil {
		return err
	}
	return put(b.removed(), binary.BigEndian.AppendUint64(nil, number), &r)
}

// RemoveTopic implements pubsub.Engine.
func (e *Engine) RemoveTopic(ctx context.Context, topic string, may func() error) error {
	if err := e.forgetTopic(ctx, topic, may); err != nil {
		return err
	}
	// The topic is gone whether or not that succeeds, and the sweep says why it does not.
	_ = e.clean(ctx)
	return nil
}

// forgetTopic frees the topic's name, in one step.
func (e *Engine) forgetTopic(ctx context.Context, topic string, may func() error) error {
	found := false
	err := e.update(ctx, func(b *buckets) error {
		var t topicRecord
		var err error
		if t, found, err = b.topic(topic); err != nil || !found {
			return err
		}
		groups, err := b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		if err := may(); err != nil {
			return refusal{err}
		}
		left := removedRecord{Topic: t.ID, TopicName: topic}
		for _, g := range groups {
			left.Groups = append(left.Groups, g.ID)
			if err := b.groups().Delete(groupKey(t.ID, g.name)); err != nil {
				return err
			}
		}
		if err := b.topics().Delete([]byte(topic)); err != nil {
			return err
		}
		delete(b.known, topic)
		b.count(allTopics(), -1)
		return b.leaveBehind(left)
	})
	if err == nil && !found {
		return pubsub.ErrNotFound
	}
	return err
}

// Clear implements pubsub.Engine. The numbers that were given out stay, so that none is given out twice.
func (e *Engine) Clear(ctx context.Context) error {
	names, err := e.Topics(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := e.RemoveTopic(ctx, name, func() error { return nil }); err != nil {
			return err
		}
	}
	return e.allSteps(ctx, (*buckets).clear)
}

// clear deletes what belongs to no topic that is there, as much as the step allows.
func (b *buckets) clear(step *budget) error {
	for _, part := range []struct {
		of      *boltdb.Bucket
		deleted func(k, v []byte)
	}{
		{b.patterns(), func(_, _ []byte) {}},
		{b.delayed(), func(k, _ []byte) { b.countDelayed(k, -1) }},
		{b.dead(), func(_, v []byte) { b.countDead(v, -1) }},
		{b.ids(), func(k, v []byte) {
			if at, err := parseDedupKey(k); err == nil {
				b.dedup.remove(at, v)
			}
		}},
	} {
		if err := deletePrefix(part.of, nil, step, part.deleted); err != nil {
			return err
		}
	}
	return nil
}

// clean removes all that was left behind.
func (e *Engine) clean(ctx context.Context) error { return e.allSteps(ctx, (*buckets).cleanRemoved) }

// allSteps runs steps of maintenance until there is nothing more to do.
func (e *Engine) allSteps(ctx context.Context, do func(b *buckets, step *budget) error) error {
	for {
		more, err := e.step(ctx, removeStep, do)
		if err != nil || !more {
			return err
		}
	}
}

// cleanRemoved takes one step in removing what topics and groups have left behind.
func (b *buckets) cleanRemoved(step *budget) error {
	for !step.exhausted {
		k, v := b.removed().Cursor().First()
		if k == nil || !step.take(0) {
			return nil
		}
		key := bytes.Clone(k)
		var r removedRecord
		if err := decode(v, &r); err != nil {
			return err
		}
		if err := b.cleanOne(&r, step); err != nil {
			return err
		}
		if step.exhausted {
			return put(b.removed(), key, &r)
		}
		if err := b.removed().Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// cleanOne ends with an exhausted step unless nothing is left.
func (b *buckets) cleanOne(r *removedRecord, step *budget) error {
	for _, group := range r.Groups {
		if err := b.cleanGroup(r, group, step); err != nil || step.exhausted {
			return err
		}
	}
	if r.Topic != 0 {
		if err := deletePrefix(b.log(), idKey(r.Topic), step, func(_, _ []byte) {}); err != nil || step.exhausted {
			return err
		}
		if err := b.cleanDelayed(r, step); err != nil || step.exhausted {
			return err
		}
	}
	return b.cleanDead(r, step)
}

func (b *buckets) cleanGroup(r *removedRecord, group uint32, step *budget) error {
	err := deletePrefix(b.done(), idKey(group), step, func(_, _ []byte) { b.count(doneOf(group), -1) })
	if err != nil || step.exhausted {
		return err
	}
	size := int64(0)
	for _, redriven := range []bool{false, true} {
		if err := deletePrefix(b.retry(), retryPrefix(group, redriven), step, func(_, v []byte) {
			size += int64(len(v))
			b.count(retriesOf(group, redriven), -1)
		}); err != nil {
			return err
		}
	}
	// A topic that stays has counted them.
	t, ok, err := b.topic(r.TopicName)
	if err != nil || !ok || r.Topic != 0 || size == 0 {
		return err
	}
	t.Bytes -= size
	b.putTopic(r.TopicName, t)
	return nil
}

func (b *buckets) cleanDelayed(r *removedRecord, step *budget) error {
	var keys [][]byte
	for k := range underFrom(b.delayed(), nil, r.DelayedDone) {
		if !step.take(0) {
			break
		}
		if _, topic, err := parseDelayedKey(k); err == nil && topic == r.Topic {
			keys = append(keys, bytes.Clone(k))
		}
		r.DelayedDone = bytes.Clone(k)
	}
	b.count(delayedOf(r.Topic), -len(keys))
	return deleteAll(b.delayed(), keys)
}

func (b *buckets) cleanDead(r *removedRecord, step *budget) error {
	var keys [][]byte
	for k, v := range underFrom(b.dead(), nil, deadKey(r.DeadDone+1)) {
		id := binary.BigEndian.Uint64(k)
		if id > r.Dead || !step.take(0) {
			break
		}
		r.DeadDone = id
		if d := decodeDeadHead(v); d.Topic == r.TopicName && (r.GroupName == "" || d.Group == r.GroupName) {
			keys = append(keys, slices.Clone(k))
			b.count(deadOf(d.Topic, d.Group), -1)
		}
	}
	return deleteAll(b.dead(), keys)
}

// deletePrefix deletes records whose keys begin with prefix, as many as the step allows, and calls deleted for each.
func deletePrefix(b *boltdb.Bucket, prefix []byte, step *budget, deleted func(k, v []byte)) error {
	var keys [][]byte
	for k, v := range under(b, prefix) {
		if !step.take(0) {
			break
		}
		keys = append(keys, bytes.Clone(k))
		deleted(k, v)
	}
	return deleteAll(b, keys)
}
