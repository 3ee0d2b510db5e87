package boltengine

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// makeOld lays a bucket out as builds before format 3 did.
func makeOld(t *testing.T, e *Engine, topic string) {
	t.Helper()
	require.NoError(t, e.db.Update(t.Context(), func(tx *boltdb.Tx) error {
		b := e.join(tx)
		require.NoError(t, b.top.Delete(keyLayout))
		move := func(in *boltdb.Bucket, change func(k, v []byte) (key, value []byte)) {
			var keys, values [][]byte
			require.NoError(t, in.ForEach(func(k, v []byte) error {
				keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
				return nil
			}))
			require.NotEmpty(t, keys)
			for i, k := range keys {
				require.NoError(t, in.Delete(k))
				require.NoError(t, in.Put(change(k, values[i])))
			}
		}
		move(b.delayed(), func(k, v []byte) ([]byte, []byte) {
			value, err := encode(&oldDelayedRecord{Topic: topic, Event: v}, len(v))
			require.NoError(t, err)
			return append(k[:8:8], k[12:]...), value
		})
		move(b.ids(), func(k, v []byte) ([]byte, []byte) { return k[8:], v })
		record, _, err := b.topic(topic)
		require.NoError(t, err)
		require.NoError(t, b.retry().ForEach(func(_, v []byte) error { record.Bytes -= int64(len(v)); return nil }))
		b.putTopic(topic, record)
		return nil
	}))
}

func TestABucketOfAnOlderFileIsBroughtUpToDate(t *testing.T) {
	e, db := open(t)
	list := entries(3)
	list[0].DedupKey, list[0].DedupWindow = []byte("id"), time.Hour
	list[2].Event.DeliverAt = noon.Add(time.Minute)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	appendAll(t, e, "t", list)
	settle(t, e, "g", []pubsub.Settlement{{Outcome: pubsub.Retried, Sequence: 1, Due: noon.Add(time.Second), History: pubsub.History{Deliveries: 1}}})
	before, err := e.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)

	makeOld(t, e, "t")
	e, err = New(t.Context(), db, "pubsub")
	require.NoError(t, err)
	after, err := e.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Equal(t, before, after)

	results, err := e.Append(t.Context(), "t", list[:1], pubsub.AppendOptions{}, noon)
	require.NoError(t, err)
	require.True(t, results[0].Duplicate, "its id is remembered")
	_, next, err := e.Promote(t.Context(), noon, 10)
	require.NoError(t, err)
	require.True(t, next.Equal(list[2].Event.DeliverAt), next)
	topics, _, err := e.Promote(t.Context(), next, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"t"}, topics)
	events, _, err := e.ReadLog(t.Context(), "t", "g", 0, 10, 1<<20)
	require.NoError(t, err)
	require.Equal(t, list[2].Event.Data, events[len(events)-1].Data)
}

// What nobody can read holds up nothing else, and is not lost.
func TestAnOldDelayedEventThatCannotBeReadBecomesADeadLetter(t *testing.T) {
	e, db := open(t)
	require.NoError(t, db.Update(t.Context(), func(tx *boltdb.Tx) error {
		b := e.join(tx)
		require.NoError(t, b.top.Delete(keyLayout))
		key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(noon.UnixNano())), 1)
		return b.delayed().Put(key, []byte("no record"))
	}))
	e, err := New(t.Context(), db, "pubsub")
	require.NoError(t, err)
	dead, _, err := e.DeadLetters(t.Context(), pubsub.DeadLetterFilter{Limit: 10}, 0)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, pubsub.ReasonUnreadable, dead[0].Reason)
	require.Equal(t, "no record", string(dead[0].Event.Data))
}
