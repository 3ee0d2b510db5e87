package todo

import (
	"hash/fnv"
	"strconv"
	"time"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

// The records of the api in its state store:
//
//	todo/<id>         Todo
//	request/<hash>    request: what an idempotency key stands for, for requestMemory
//	index/<shard>     index: the ids of the todos of that shard
//	outbox/<shard>    outbox: the events of those todos that still have to be published, in order
//
// Index and outbox change in one transaction with the todo. They are split over shards by todo id, so that
// writers of different todos rarely meet on one record.
const (
	shards = 16
	// requestMemory is how long an idempotency key is remembered.
	requestMemory = 24 * time.Hour
	// maxPendingEvents bounds an outbox record; with events of at most a few KiB it stays well under what a
	// state store takes as one value.
	maxPendingEvents = 500
)

type index struct {
	IDs []string `json:"ids"`
}

type outbox struct {
	Events []event.Event `json:"events"`
}

type request struct {
	TodoID string `json:"todoId"`
	// Fingerprint tells whether a later request under the same key is the same request.
	Fingerprint string `json:"fingerprint"`
}

func todoKey(id string) string { return "todo/" + id }

func requestKey(hash string) string { return "request/" + hash }

func indexKey(shard int) string { return "index/" + strconv.Itoa(shard) }

func outboxKey(shard int) string { return "outbox/" + strconv.Itoa(shard) }

func shardOf(id string) int {
	hash := fnv.New32a()
	hash.Write([]byte(id))
	return int(hash.Sum32() % shards)
}
