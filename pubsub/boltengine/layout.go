package boltengine

import (
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// What a bucket that users name holds. Integers in keys are big-endian, so that a cursor walks them in order; a topic and
// the part that a group has in it go by numbers that are never used again within the bucket.
//
//	topics    name                            → topicRecord
//	patterns  group \x00 pattern              → (nothing): the group wants every topic that matches
//	groups    topic(4) group name             → groupRecord
//	log       topic(4) sequence(8)            → eventRecord, contiguous from topicRecord.First to .Last
//	delayed   due(8) topic(4) number(8)       → eventRecord
//	done      group(4) sequence(8)            → (nothing): settled, but above groupRecord.Done
//	retry     group(4) 0 due(8) sequence(8)   → retryRecord: failed, waits for its time
//	retry     group(4) 1 order(8) sequence(8) → retryRecord: redriven, waits for its turn
//	dead      id(8)                           → deadRecord
//	ids       window(8) number(8)             → until(8) dedupKey(16), for each of up to 32 events that were seen together, and
//	                                            are remembered until then
//	removed   number(8)                       → removedRecord: what a removed topic or group has left behind
//	copyOf                                    → text: what the bucket is an unfinished copy of; see migrate.go
//	layout                                    → 2: what is drawn here; see upgrade.go
//
// Records are a version byte and CBOR (RFC 8949); see record.go. Times are Unix nanoseconds; zero is no time. Ids lie by
// the length of their window, so that those of each leave in the order they came.
var (
	bucketTopics   = []byte("topics")
	bucketPatterns = []byte("patterns")
	bucketGroups   = []byte("groups")
	bucketLog      = []byte("log")
	bucketDelayed  = []byte("delayed")
	bucketDone     = []byte("done")
	bucketRetry    = []byte("retry")
	bucketDead     = []byte("dead")
	bucketIDs      = []byte("ids")
	bucketRemoved  = []byte("removed")

	allBuckets = [][]byte{
		bucketTopics, bucketPatterns, bucketGroups, bucketLog, bucketDelayed,
		bucketDone, bucketRetry, bucketDead, bucketIDs, bucketRemoved,
	}
)

// sequentialFill packs pages full where keys only ever grow at the end.
const sequentialFill = 0.95

// idKey begins the keys of what belongs to a topic or to a group.
func idKey(id uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 0, 12), id) }

func patternKey(group, pattern string) []byte { return []byte(group + "\x00" + pattern) }

func groupKey(topic uint32, group string) []byte { return append(idKey(topic), group...) }

// sequenceKey is the key in log (by topic) and in done (by group).
func sequenceKey(id uint32, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(idKey(id), sequence)
}

// sequenceOf returns the sequence that a key ends with.
func sequenceOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

const delayedKeyLen = 8 + 4 + 8

func delayedKey(due time.Time, topic uint32, number uint64) []byte {
	key := binary.BigEndian.AppendUint64(make([]byte, 0, delayedKeyLen), uint64(due.UnixNano()))
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(key, topic), number)
}

func parseDelayedKey(key []byte) (due time.Time, topic uint32, err error) {
	if len(key) != delayedKeyLen {
		return due, 0, badKey(bucketDelayed, key, delayedKeyLen)
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(key))), binary.BigEndian.Uint32(key[8:]), nil
}

const (
	kindRetry    = 0
	kindRedriven = 1
)

func retryPrefix(group uint32, redriven bool) []byte {
	kind := byte(kindRetry)
	if redriven {
		kind = kindRedriven
	}
	return append(idKey(group), kind)
}

const retryKeyLen = 4 + 1 + 8 + 8

func retryKey(group uint32, k pubsub.RetryKey) []byte {
	key := binary.BigEndian.AppendUint64(retryPrefix(group, k.Redriven), uint64(k.Order))
	return binary.BigEndian.AppendUint64(key, k.Sequence)
}

func parseRetryKey(key []byte) (group uint32, k pubsub.RetryKey, err error) {
	if len(key) != retryKeyLen {
		return 0, k, badKey(bucketRetry, key, retryKeyLen)
	}
	return binary.BigEndian.Uint32(key), pubsub.RetryKey{
		Redriven: key[4] == kindRedriven,
		Order:    int64(binary.BigEndian.Uint64(key[5:])),
		Sequence: sequenceOf(key),
	}, nil
}

func deadKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

const (
	dedupKeyLen = 8 + 8
	dedupIDLen  = 8 + len(pubsub.DedupHash{})
	// dedupBlockIDs is how many ids stand together: five such blocks fill a page.
	dedupBlockIDs = 32
)

func dedupKey(at dedupPlace) []byte {
	key := binary.BigEndian.AppendUint64(make([]byte, 0, dedupKeyLen), uint64(at.window))
	return binary.BigEndian.AppendUint64(key, at.number)
}

func parseDedupKey(key []byte) (dedupPlace, error) {
	if len(key) != dedupKeyLen {
		return dedupPlace{}, badKey(bucketIDs, key, dedupKeyLen)
	}
	return dedupPlace{time.Duration(binary.BigEndian.Uint64(key)), binary.BigEndian.Uint64(key[8:])}, nil
}

func appendDedupID(ids []byte, until time.Time, hash pubsub.DedupHash) []byte {
	return append(binary.BigEndian.AppendUint64(ids, uint64(until.UnixNano())), hash[:]...)
}

// eachDedupID walks the ids that stand together. What is too short for one is none.
func eachDedupID(ids []byte) iter.Seq2[int64, pubsub.DedupHash] {
	return func(yield func(until int64, hash pubsub.DedupHash) bool) {
		for ; len(ids) >= dedupIDLen; ids = ids[dedupIDLen:] {
			if !yield(int64(binary.BigEndian.Uint64(ids)), pubsub.DedupHash(ids[8:dedupIDLen])) {
				return
			}
		}
	}
}

func badKey(bucket, key []byte, want int) error {
	return fmt.Errorf("a key in %s takes %d bytes, want %d", bucket, len(key), want)
}
