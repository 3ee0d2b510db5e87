package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// keyLayout, beside the buckets that layout.go draws, says that they are as drawn there. Files of before format 3 have
// buckets without it: their delayed events are keyed by due(8) number(8) and name their topic, their ids are keyed by
// number(8), and topicRecord.Bytes leaves out what groups retry or have redriven.
var (
	keyLayout = []byte("layout")
	layout    = []byte{2}
)

const (
	oldDelayedKeyLen = 8 + 8
	oldDedupKeyLen   = 8
	// upgradeStep bounds the records that one transaction of an upgrade brings up to date.
	upgradeStep = 100_000
)

// oldDelayedRecord is what used to stand under a delayed event's key.
type oldDelayedRecord struct {
	Topic string `cbor:"1,keyasint"`
	Event []byte `cbor:"2,keyasint"` // an encoded eventRecord
}

// upgrade brings the buckets of an older file up to date. A process that is killed meanwhile goes on when it opens them
// again.
func (e *Engine) upgrade(ctx context.Context) error {
	for more := true; more; {
		err := e.db.Update(ctx, func(tx *boltdb.Tx) (err error) {
			b := e.writable(tx)
			if more, err = b.upgradeDelayed(); err == nil && !more {
				more, err = b.upgradeIDs()
			}
			if err == nil && !more {
				err = b.countRetried()
			}
			if err == nil && !more {
				err = b.top.Put(keyLayout, layout)
			}
			if err == nil {
				err = b.finish()
			}
			return boltdb.Dirty(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// old returns the first keys of a length, and whether there are more of them.
func old(from *boltdb.Bucket, length int) (keys [][]byte, more bool) {
	c := from.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if len(k) != length {
			continue
		}
		if len(keys) == upgradeStep {
			return keys, true
		}
		keys = append(keys, bytes.Clone(k))
	}
	return keys, false
}

func (b *buckets) upgradeDelayed() (more bool, err error) {
	keys, more := old(b.delayed(), oldDelayedKeyLen)
	for _, k := range keys {
		var r oldDelayedRecord
		raw := b.delayed().Get(k)
		if decode(raw, &r) != nil {
			// Nobody knows whose it is.
			if err := b.bury(groupName{}, 0, bytes.Clone(raw), historyRecord{}, pubsub.ReasonUnreadable, time.Unix(0, 0)); err != nil {
				return more, err
			}
			continue
		}
		t, err := b.ensureTopic(r.Topic)
		if err != nil {
			return more, err
		}
		due := time.Unix(0, int64(binary.BigEndian.Uint64(k)))
		if err := b.delayed().Put(delayedKey(due, t.ID, binary.BigEndian.Uint64(k[8:])), bytes.Clone(r.Event)); err != nil {
			return more, err
		}
	}
	return more, deleteAll(b.delayed(), keys)
}

// upgradeIDs puts ids whose window's length is not known before all others.
func (b *buckets) upgradeIDs() (more bool, err error) {
	keys, more := old(b.ids(), oldDedupKeyLen)
	for _, k := range keys {
		value := bytes.Clone(b.ids().Get(k))
		if err := b.ids().Put(dedupKey(dedupPlace{number: binary.BigEndian.Uint64(k)}), value); err != nil {
			return more, err
		}
	}
	return more, deleteAll(b.ids(), keys)
}

// countRetried adds to each topic's bytes what groups retry of it or have redriven.
func (b *buckets) countRetried() error {
	owners, err := b.owners()
	if err != nil {
		return err
	}
	bytesOf := map[string]int64{}
	err = b.retry().ForEach(func(k, v []byte) error {
		id, _, err := parseRetryKey(k)
		bytesOf[owners[id].topic] += int64(len(v))
		return err
	})
	if err != nil {
		return err
	}
	for name, n := range bytesOf {
		t, ok, err := b.topic(name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		t.Bytes += n
		b.putTopic(name, t)
	}
	return nil
}
