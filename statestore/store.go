package statestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jonboulle/clockwork"
)

// Options for New; the zero value is the documented default.
type Options struct {
	// Clock decides when keys expire. Default: the system's.
	Clock clockwork.Clock
	// Logger hears of failed sweeps and of indexes. Default: slog.Default().
	Logger *slog.Logger
	// CleanupInterval is how often expired keys are removed from disk. Default: DefaultCleanupInterval.
	CleanupInterval time.Duration
	// Limits are what the engine takes. Default: the package's.
	Limits Limits
}

// Limits are what a call may ask for, where an engine takes less than the package allows. Zero is the package's limit.
type Limits struct {
	// MaxValueSize bounds a value, in bytes; at most the constant of that name.
	MaxValueSize int
	// MaxTransactionSize bounds the writes in one transaction; at most the constant of that name.
	MaxTransactionSize int
}

// Store is one bucket of state. Its methods may be called from any goroutine. Every call is linearizable: it takes
// effect at one instant between its start and its return, and a write that has returned nil is on disk.
type Store struct {
	engine  Engine
	clock   clockwork.Clock
	sweeper *sweeper
	indexer *indexer
	limits  Limits
	// large is held by the one large commit that may wait or be under way at once.
	large chan struct{}
}

// New returns a Store over engine and starts its sweeper. The caller must Close it before it closes the engine.
func New(engine Engine, opts Options) (*Store, error) {
	if opts.Clock == nil {
		opts.Clock = clockwork.NewRealClock()
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	opts.Limits.MaxValueSize = cmp.Or(opts.Limits.MaxValueSize, MaxValueSize)
	opts.Limits.MaxTransactionSize = cmp.Or(opts.Limits.MaxTransactionSize, MaxTransactionSize)
	if opts.CleanupInterval != 0 {
		if err := checkCleanupInterval(opts.CleanupInterval); err != nil {
			return nil, err
		}
	}
	return &Store{
		engine:  engine,
		clock:   opts.Clock,
		sweeper: startSweeper(engine, opts),
		indexer: newIndexer(engine, opts),
		limits:  opts.Limits,
		large:   make(chan struct{}, 1),
	}, nil
}

// Limits are what the store holds its calls to.
func (s *Store) Limits() Limits { return s.limits }

// SetCleanupInterval asks for expired keys to be removed every interval. Of several requests, Options.CleanupInterval
// included, the shortest holds; the default holds only as long as there was none.
func (s *Store) SetCleanupInterval(interval time.Duration) error {
	if err := checkCleanupInterval(interval); err != nil {
		return err
	}
	s.sweeper.ask(interval)
	return nil
}

// Close stops the sweeper and the building of indexes and waits for them, at most until ctx ends. Later calls wait
// likewise.
func (s *Store) Close(ctx context.Context) error {
	if err := errors.Join(s.sweeper.close(ctx, "sweeper"), s.indexer.close(ctx, "indexer")); err != nil {
		return fmt.Errorf("close state store: %w", err)
	}
	return nil
}

// Get returns the key's present version; Item.Found reports whether there is one.
//
// Errors: invalid.Error for a key that cannot exist, DamagedError, ctx's and the engine's.
func (s *Store) Get(ctx context.Context, key string) (Item, error) {
	if err := CheckKey(key); err != nil {
		return Item{}, fmt.Errorf("get state: %w", err)
	}
	items, err := s.engine.Get(ctx, []string{key}, math.MaxInt, s.clock.Now())
	if err == nil {
		err = items[0].Err
	}
	if err != nil {
		return Item{}, fmt.Errorf("get state: %w", err)
	}
	return items[0], nil
}

// GetMany returns one Item per key, in the order of keys, all from one consistent snapshot. What is wrong with one key
// (invalid.Error, DamagedError) is its Item.Err; the error is for when nothing could be read. The sizes of the items are
// at most room in all, in bytes: ErrNoRoom is the Err of those that would take more, and their values are not copied.
// A key that is given again is not read again, though its items take their room each.
func (s *Store) GetMany(ctx context.Context, keys []string, room int) ([]Item, error) {
	items := make([]Item, len(keys))
	first := make(map[string]int, len(keys)) // where a key's item is
	distinct := make([]string, 0, len(keys))
	for i, key := range keys {
		if _, again := first[key]; again {
			continue
		}
		first[key] = i
		if items[i] = (Item{Key: key, Err: CheckKey(key)}); items[i].Err == nil {
			distinct = append(distinct, key)
		}
	}
	found, err := s.engine.Get(ctx, distinct, room, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("get state: %w", err)
	}
	for i := range found {
		items[first[found[i].Key]] = found[i]
		room -= found[i].Size()
	}
	for i, key := range keys {
		if first[key] == i {
			continue
		}
		items[i] = items[first[key]]
		if size := items[i].Size(); size > room {
			items[i] = Item{Key: key, Err: ErrNoRoom}
		} else {
			room -= size
		}
	}
	return items, nil
}

// Apply takes a transaction. One without writes does nothing, and its idempotency key is not used up.
//
// Errors: ETagMismatchError, invalid.Error, TooLargeError and DamagedError change nothing. After ctx's and the engine's
// errors it is unknown whether the transaction took effect; an idempotency key makes it safe to try again.
func (s *Store) Apply(ctx context.Context, t Transaction) error {
	return s.ApplyEach(ctx, []Transaction{t})[0]
}

// ApplyEach takes each transaction on its own, in order, and returns their outcomes, one each: nil or an error as of
// Apply. It shares commits between them, each of which has at most maxShared writes, or those of one transaction.
func (s *Store) ApplyEach(ctx context.Context, transactions []Transaction) []error {
	errs := make([]error, len(transactions))
	batch := make([]Transaction, 0, len(transactions))
	places := make([]int, 0, len(transactions)) // of the batch in errs
	writes := 0
	commit := func() {
		for i, err := range s.commit(ctx, batch, writes) {
			if err != nil {
				errs[places[i]] = fmt.Errorf("write state: %w", err)
			}
		}
		batch, places, writes = batch[:0], places[:0], 0
	}
	for i := range transactions {
		t := &transactions[i]
		if err := t.check(s.limits); err != nil {
			errs[i] = fmt.Errorf("write state: %w", err)
			continue
		}
		if len(t.Writes) == 0 {
			continue
		}
		if writes+len(t.Writes) > min(maxShared, s.limits.MaxTransactionSize) {
			commit()
		}
		batch, places, writes = append(batch, *t), append(places, i), writes+len(t.Writes)
	}
	if len(batch) > 0 {
		commit()
	}
	return errs
}

// largeCommit is how many writes make a commit large. Large ones take turns, so that whoever comes with a small one waits
// for the one that is under way and not for all that others have yet to write.
const largeCommit = 100

// maxShared bounds the writes of a commit that transactions share: what needs no more to be written at once holds others
// up for no longer.
const maxShared = 10_000

func (s *Store) commit(ctx context.Context, batch []Transaction, writes int) []error {
	err := ctx.Err()
	if writes > largeCommit {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	var outcomes []error
	if err == nil {
		outcomes, err = s.engine.Apply(ctx, batch, s.clock.Now)
	}
	if err != nil {
		return slices.Repeat([]error{err}, len(batch))
	}
	return outcomes
}
