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

// upgrade brings the buckets up to date if they are an older file's. A process that is killed meanwhile goes on when it
// opens them again.
func (e *Engine) upgrade(ctx context.Context) error {
	for more := true; more; {
		err := e.update(ctx, func(b *buckets) (err error) {
			if more = b.top.Get(keyLayout) == nil; !more {
				return nil
			}
			if more, err = replaceOld(b.delayed(), oldDelayedKeyLen, b.upgradeDelayed); err == nil && !more {
				more, err = replaceOld(b.ids(), oldDedupKeyLen, b.upgradeID)
			}
			if err == nil && !more {
				err = b.countRetried()
			}
			if err == nil && !more {
				err = b.top.Put(keyLayout, layout)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replaceOld has write put in their new place the first records whose keys have a length, and deletes them. more says that
// there are others.
func replaceOld(in *boltdb.Bucket, length int, write func(k, v []byte) error) (more bool, err error) {
	var keys [][]byte
	for k := range under(in, nil) {
		if len(k) != length {
			continue
		}
		if more = len(keys) == upgradeStep; more {
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := write(k, bytes.Clone(in.Get(k))); err != nil {
			return more, err
		}
	}
	return more, deleteAll(in, keys)
}

func (b *buckets) upgradeDelayed(k, v []byte) error {
	var r oldDelayedRecord
	if decode(v, &r) != nil {
		// Nobody knows whose it is.
		return b.bury(groupName{}, 0, v, historyRecord{}, pubsub.ReasonUnreadable, time.Unix(0, 0))
	}
	t, err := b.ensureTopic(r.Topic)
	if err != nil {
		return err
	}
	due := time.Unix(0, int64(binary.BigEndian.Uint64(k)))
	return b.delayed().Put(delayedKey(due, t.ID, binary.BigEndian.Uint64(k[8:])), r.Event)
}

// upgradeID puts ids whose window's length is not known before all others.
func (b *buckets) upgradeID(k, v []byte) error {
	return b.ids().Put(dedupKey(dedupPlace{number: binary.BigEndian.Uint64(k)}), v)
}

// countRetried adds to each topic's bytes what groups retry of it or have redriven.
func (b *buckets) countRetried() error {
	topics, err := b.listTopics()
	if err != nil {
		return err
	}
	for _, t := range topics {
		groups, err := b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		for _, g := range groups {
			for _, v := range under(b.retry(), idKey(g.ID)) {
				t.Bytes += int64(len(v))
			}
		}
		b.putTopic(t.name, t.topicRecord)
	}
	return nil
}
