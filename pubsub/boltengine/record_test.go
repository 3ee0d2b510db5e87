package boltengine

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestWhatTheEncoderWritesCanBeRead(t *testing.T) {
	event := pubsub.Event{Metadata: map[string]string{}, PublishTime: noon}
	for i := range 200_000 {
		event.Metadata[strconv.Itoa(i)] = ""
	}
	raw, err := encodeEvent(&event)
	require.NoError(t, err)
	require.Empty(t, decodeEvent(raw, "t", 1).Unreadable)

	dead := deadRecord{Event: raw, History: historyRecord{Attempts: make([]attemptRecord, 200_000)}}
	raw, err = encode(dead, 0)
	require.NoError(t, err)
	require.Equal(t, dead, decodeDeadRecord(raw))
}

// seed adds a record, and what is none, to a fuzz target.
func seed(f *testing.F, record any) {
	f.Helper()
	raw, err := encode(record, 0)
	require.NoError(f, err)
	for _, seed := range [][]byte{raw, raw[:len(raw)-1], nil, {recordVersion}, {99}} {
		f.Add(seed)
	}
}

// stable fails unless a record that could be decoded is written as something that is decoded as the same.
func stable[R any](t *testing.T, record R) {
	t.Helper()
	once, err := encode(&record, 0)
	require.NoError(t, err)
	var back R
	require.NoError(t, decode(once, &back))
	// Compared as they are written: an empty map and none are the same.
	twice, err := encode(&back, 0)
	require.NoError(t, err)
	require.Equal(t, once, twice)
}

var (
	someHistory = historyRecord{Deliveries: 1, Attempts: []attemptRecord{{At: 1, Error: "no"}}}
	someEvent   = []byte{recordVersion, 0xa0}
)

func FuzzDecodeTopic(f *testing.F) {
	seed(f, topicRecord{ID: 1, First: 2, Last: 3, Bytes: 4, MaxAge: 5})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r topicRecord
		if decode(raw, &r) == nil {
			stable(t, r)
		}
	})
}

func FuzzDecodeGroup(f *testing.F) {
	seed(f, groupRecord{ID: 1, Done: 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r groupRecord
		if decode(raw, &r) == nil {
			stable(t, r)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	seed(f, eventRecord{ID: "id", Data: []byte("data"), ContentType: "c", Metadata: map[string]string{"k": "v"}, PublishTime: 1, Expires: 2, PartitionKey: "p", DeliverAt: 3})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := decodeEvent(raw, "t", 1)
		times, err := decodeTimes(raw)
		if e.Unreadable != "" {
			require.Equal(t, string(raw), string(e.Data), "it can be shown as it is")
			return
		}
		require.NoError(t, err)
		require.Equal(t, e.PublishTime.UnixNano(), times.PublishTime)
		again, err := encodeEvent(&e)
		require.NoError(t, err)
		back := decodeEvent(again, "t", 1)
		require.Empty(t, back.Unreadable)
		once, err := encodeEvent(&back)
		require.NoError(t, err)
		require.Equal(t, len(again), len(once)) // a map has no order
	})
}

func FuzzDecodeRetry(f *testing.F) {
	seed(f, retryRecord{Event: someEvent, History: someHistory, After: 7})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := decodeRetryRecord(raw)
		stable(t, r)
		retry := decodeRetry(raw, "t", pubsub.RetryKey{Sequence: 1})
		var probe retryRecord
		if decode(raw, &probe) != nil {
			require.Positive(t, retry.History.Deliveries)
			require.Equal(t, string(raw), string(r.Event))
		}
	})
}

func FuzzDecodeDeadLetter(f *testing.F) {
	seed(f, deadRecord{Topic: "t", Group: "g", Sequence: 1, Event: someEvent, History: someHistory, Reason: "r", Time: 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := decodeDeadRecord(raw)
		stable(t, r)
		d := r.deadLetter(1)
		require.Equal(t, d.Event.Unreadable != "", d.Reason == pubsub.ReasonUnreadable || r.Reason == string(pubsub.ReasonUnreadable))
	})
}

func FuzzParseDelayedKey(f *testing.F) {
	f.Add(delayedKey(noon, 1, 2))
	f.Fuzz(func(t *testing.T, key []byte) {
		if due, topic, err := parseDelayedKey(key); err == nil {
			require.Equal(t, key, delayedKey(due, topic, sequenceOf(key)))
		}
	})
}

func FuzzParseRetryKey(f *testing.F) {
	f.Add(retryKey(1, pubsub.RetryKey{Redriven: true, Order: 2, Sequence: 3}))
	f.Fuzz(func(t *testing.T, key []byte) {
		if group, k, err := parseRetryKey(key); err == nil && key[4] <= kindRedriven {
			require.Equal(t, key, retryKey(group, k))
		}
	})
}

func FuzzDedupIDs(f *testing.F) {
	f.Add(dedupKey(dedupPlace{time.Hour, 7}), appendDedupID(appendDedupID(nil, noon, testHash(1)), noon, testHash(2)))
	f.Fuzz(func(t *testing.T, key, ids []byte) {
		if at, err := parseDedupKey(key); err == nil {
			require.Equal(t, key, dedupKey(at))
		}
		again := []byte{}
		for until, hash := range eachDedupID(ids) {
			again = appendDedupID(again, time.Unix(0, until), hash)
		}
		require.Equal(t, ids[:len(ids)/dedupIDLen*dedupIDLen], again)
	})
}
