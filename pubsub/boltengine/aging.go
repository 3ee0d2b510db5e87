package boltengine

import (
	"bytes"
	"encoding/binary"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// agingScan is how many retries one sweep looks at for each that it may bury: retries lie in the order in which they
// are due, so the aged ones stand anywhere among them.
const agingScan = 16

// aging remembers where the next sweep goes on to look through the retries; nil: at the first.
type aging struct {
	mu   sync.Mutex
	from []byte
}

// agedRetry is a retry that may have outlived its topic's MaxAge.
type agedRetry struct {
	topic, group string
	key          []byte
}

// agedRetries looks through the next part of the retries, without keeping the writer from its work, and returns at
// most limit of those that are too old.
func (e *Engine) agedRetries(now time.Time, limit int) (aged []agedRetry, err error) {
	e.aging.mu.Lock()
	defer e.aging.mu.Unlock()
	err = e.read(func(b *buckets) error {
		c := b.retry().Cursor()
		k, v := c.Seek(e.aging.from)
		if k == nil {
			k, v = c.First()
		}
		e.aging.from = nil
		if k == nil {
			return nil
		}
		owners, err := b.owners()
		if err != nil {
			return err
		}
		for seen := 0; k != nil; k, v = c.Next() {
			if seen == agingScan*limit || len(aged) == limit {
				e.aging.from = bytes.Clone(k)
				return nil
			}
			seen++
			owner, ok := owners[binary.BigEndian.Uint32(k)]
			if !ok || k[4] != kindRetry {
				continue
			}
			// One that cannot be read is not to wait for a group that may never come back.
			r := decodeRetryRecord(v)
			since, err := ageStart(r.Event)
			if err != nil || owner.limits.aged(since, r.History.Redriven, now) {
				aged = append(aged, agedRetry{owner.topic, owner.group, bytes.Clone(k)})
			}
		}
		return nil
	})
	return aged, err
}

// owner is whose retries carry a group's number.
type owner struct {
	topic, group string
	limits       topicRecord
}

func (b *buckets) owners() (map[uint32]owner, error) {
	owners := map[uint32]owner{}
	err := eachTopic(b, func(topic string, t topicRecord) error {
		return b.eachGroup(t.ID, func(group string, g groupRecord) error {
			owners[g.ID] = owner{topic, group, t}
			return nil
		})
	})
	return owners, err
}

// eventTimes are the part of an eventRecord that can be had without its payload.
type eventTimes struct {
	PublishTime int64 `cbor:"5,keyasint"`
	DeliverAt   int64 `cbor:"8,keyasint"`
}

func publishTime(event []byte) (time.Time, error) {
	var r eventTimes
	err := decode(event, &r)
	return time.Unix(0, r.PublishTime), err
}

// ageStart returns from when on the event's age counts: from when it was published or, if it was held back, was due.
func ageStart(event []byte) (time.Time, error) {
	var r eventTimes
	err := decode(event, &r)
	return time.Unix(0, max(r.PublishTime, r.DeliverAt)), err
}

// buryRetry makes a dead letter of a retry, unless it has been settled since it was looked at.
func (b *buckets) buryRetry(aged agedRetry, now time.Time) error {
	raw := b.retry().Get(aged.key)
	if raw == nil {
		return nil
	}
	r := decodeRetryRecord(raw)
	if err := b.retry().Delete(aged.key); err != nil {
		return err
	}
	return b.bury(deadRecord{
		Topic:    aged.topic,
		Group:    aged.group,
		Sequence: sequenceOf(aged.key),
		Event:    r.Event,
		History:  r.History,
		Reason:   string(pubsub.ReasonMaxAge),
		Time:     now.UnixNano(),
	})
}
