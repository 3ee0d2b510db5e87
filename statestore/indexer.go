package statestore

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

const (
	// MaxQueryIndexes bounds the fields that a store has indexes on.
	MaxQueryIndexes = 64
	// QueryIndexRetention is how long an index is kept after the last store that was asked for it has stopped.
	QueryIndexRetention = 7 * 24 * time.Hour

	// indexRenewal is how often the indexes of a running store are kept from ending.
	indexRenewal = 24 * time.Hour
	// indexStep bounds the keys that one commit takes into an index, and with them the time for which it can hold up
	// other writers.
	indexStep = 256
	// indexRetry is how long building an index rests after a failure.
	indexRetry = time.Minute
	// indexReport is how often the log hears of an index that is being built.
	indexReport = 10 * time.Second
)

// AddQueryIndexes asks for indexes on field paths, beside those that were asked for before. An equality, membership or
// range on such a path, alone or in an And, lets a query look at what it may find instead of at everything; the answers
// are the same with, without and during the building of an index. An index on what is already stored is built in the
// background, with progress in the log. It costs each write of a value that has the field another write or two.
//
// Indexes are kept with the data and outlast the Store. Which components will yet ask for which index cannot be known,
// so one is removed only when no running Store has been asked for it for QueryIndexRetention.
//
// Errors: invalid.Error, also for more than MaxQueryIndexes in all; nothing is added then.
func (s *Store) AddQueryIndexes(paths ...string) error {
	for _, path := range paths {
		if _, err := ParseFieldPath(path); err != nil {
			return fmt.Errorf("add query indexes: %w", err)
		}
	}
	if err := s.indexer.ask(paths); err != nil {
		return fmt.Errorf("add query indexes: %w", err)
	}
	return nil
}

// indexer keeps the indexes that were asked for.
type indexer struct {
	*worker
	engine Engine
	log    *slog.Logger

	mu    sync.Mutex
	paths []string // sorted
}

func newIndexer(engine Engine, opts Options) *indexer {
	x := &indexer{engine: engine, log: opts.Logger}
	x.worker = newWorker(opts.Clock, func(ctx context.Context, _ bool) time.Duration {
		if err := x.build(ctx); err != nil && ctx.Err() == nil {
			x.log.Error("could not build the query indexes", "error", err, "next", indexRetry)
			return indexRetry
		}
		return indexRenewal
	})
	return x
}

func (x *indexer) ask(paths []string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	union := slices.Concat(x.paths, paths)
	slices.Sort(union)
	union = slices.Compact(union)
	if len(union) > MaxQueryIndexes {
		return &invalid.Error{Field: "queryIndexes", Value: fmt.Sprintf("of %d paths, with those that were asked for before,", len(union)),
			Allowed: fmt.Sprintf("at most %d", MaxQueryIndexes)}
	}
	if len(union) > len(x.paths) {
		x.paths = union
		x.wake()
	}
	return nil
}

func (x *indexer) asked() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.paths
}

// build goes on in steps until the indexes on all paths are complete, and so sees to those that are asked for meanwhile.
func (x *indexer) build(ctx context.Context) error {
	building := ""
	var reported time.Time
	until := x.clock.Now().Add(QueryIndexRetention)
	for {
		step, err := x.engine.BuildIndexes(ctx, x.asked(), until, indexStep)
		if err != nil || step.Path == "" {
			return err
		}
		log := x.log.With("path", step.Path, "keys", step.Keys)
		switch {
		case step.Complete:
			log.Info("query index is complete")
		case building != step.Path:
			log.Info("building a query index")
			building, reported = step.Path, x.clock.Now()
		case x.clock.Since(reported) >= indexReport:
			log.Info("still building a query index")
			reported = x.clock.Now()
		}
	}
}
