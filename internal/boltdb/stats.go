package boltdb

import (
	"sync"
	"sync/atomic"
	"time"
)

// Stats counts what a database has done since it was opened.
type Stats struct {
	// RecordsRead counts the records that readers have asked for or walked over.
	RecordsRead uint64
	// Commits are batches, Writes the functions in them, and LogBytes what their records take in the log.
	Commits, Writes, LogBytes uint64
	// SyncTime is what the syncs of those records took together.
	SyncTime time.Duration
	// Checkpoints, and what they took together from their beginning to being on disk.
	Checkpoints    uint64
	CheckpointTime time.Duration
	// Recoveries of a file that was not closed cleanly, or was left uncertain by a failure, the bytes of log that they
	// replayed, and what they took together.
	Recoveries    uint64
	RecoveryBytes uint64
	RecoveryTime  time.Duration
}

// counters keeps Stats.
type counters struct {
	mu   sync.Mutex
	s    Stats
	read atomic.Uint64
}

// Stats returns what was counted so far.
func (db *DB) Stats() Stats {
	db.counters.mu.Lock()
	defer db.counters.mu.Unlock()
	s := db.counters.s
	s.RecordsRead = db.counters.read.Load()
	return s
}

func (c *counters) count(fn func(s *Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.s)
}
