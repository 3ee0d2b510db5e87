package statestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jonboulle/clockwork"
)

// Options for New; the zero value is the documented default.
type Options struct {
	// Clock decides when keys end. Default: the system's.
	Clock clockwork.Clock
	// Logger hears of failed sweeps and of indexes. Default: slog.Default().
	Logger *slog.Logger
	// CleanupInterval is how often ended keys are removed from disk. Default: DefaultCleanupInterval.
	CleanupInterval time.Duration
}

// Store is one namespace of state. Its methods may be called from any goroutine. Every call is linearizable: it takes
// effect at one instant between its start and its return, and a write that has returned nil is on disk.
type Store struct {
	engine  Engine
	clock   clockwork.Clock
	sweeper *sweeper
	indexer *indexer
}

// New returns a Store over engine and starts its sweeper. The caller must Close it before it closes the engine.
func New(engine Engine, opts Options) (*Store, error) {
	if opts.Clock == nil {
		opts.Clock = clockwork.NewRealClock()
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
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
	}, nil
}

// SetCleanupInterval asks for ended keys to be removed every interval. Of several requests, Options.CleanupInterval
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
	if err := errors.Join(s.sweeper.close(ctx), s.indexer.close(ctx)); err != nil {
		return fmt.Errorf("close state store: %w", err)
	}
	return nil
}

// Get returns the key's present version; Item.Found says whether there is one.
//
// Errors: ArgumentError for a key that cannot exist, DamagedError, ctx's and the engine's.
func (s *Store) Get(ctx context.Context, key string) (Item, error) {
	items, err := s.GetMany(ctx, []string{key})
	if err != nil {
		return Item{}, err
	}
	if err := items[0].Err; err != nil {
		return Item{}, fmt.Errorf("get state: %w", err)
	}
	return items[0], nil
}

// GetMany returns one Item per key, in the order of keys, all from one consistent snapshot. What is wrong with one key
// (ArgumentError, DamagedError) is its Item.Err; the error is for when nothing could be read. The sum of the values is
// not bounded.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]Item, error) {
	var invalid map[int]error
	for i, key := range keys {
		if err := CheckKey(key); err != nil {
			if invalid == nil {
				invalid = make(map[int]error)
			}
			invalid[i] = err
		}
	}
	valid := keys
	if len(invalid) > 0 {
		valid = make([]string, 0, len(keys)-len(invalid))
		for i, key := range keys {
			if invalid[i] == nil {
				valid = append(valid, key)
			}
		}
	}
	found, err := s.engine.Get(ctx, valid, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("get state: %w", err)
	}
	if len(invalid) == 0 {
		return found, nil
	}
	items := make([]Item, len(keys))
	for i, key := range keys {
		if err := invalid[i]; err != nil {
			items[i] = Item{Key: key, Err: err}
			continue
		}
		items[i], found = found[0], found[1:]
	}
	return items, nil
}

// Apply takes the writes as one transaction: they take effect as a whole, in order, or not at all. No writes are no
// transaction: nothing happens, and the idempotency key is not used up.
//
// Errors: ETagMismatchError, ArgumentError, TooLargeError and DamagedError change nothing. After ctx's and the engine's
// errors it is unknown whether the transaction took effect; an idempotency key makes it safe to try again.
func (s *Store) Apply(ctx context.Context, writes []Write, opts TransactionOptions) error {
	if len(writes) == 0 {
		return nil
	}
	now := s.clock.Now()
	unit, err := transaction(writes, opts, now)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	outcomes, err := s.engine.Apply(ctx, []Unit{unit}, now)
	if err == nil {
		err = outcomes[0]
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// ApplyEach takes each write, in order, on its own, in one commit, and returns the writes' outcomes, one each: nil or an
// error as of Apply.
func (s *Store) ApplyEach(ctx context.Context, writes []Write) []error {
	now := s.clock.Now()
	errs := make([]error, len(writes))
	units := make([]Unit, 0, len(writes))
	changes := make([]Change, len(writes))
	for i := range writes {
		w := &writes[i]
		var end time.Time
		c, err := w.change(now)
		if err == nil {
			end, err = idempotency(w.IdempotencyKey, w.IdempotencyWindow, now)
		}
		if err != nil {
			errs[i] = fmt.Errorf("write state: %w", err)
			continue
		}
		changes[i] = c
		units = append(units, Unit{Changes: changes[i : i+1], IdempotencyKey: w.IdempotencyKey, IdempotencyEnd: end})
	}
	if len(units) == 0 {
		return errs
	}
	outcomes, err := s.engine.Apply(ctx, units, now)
	for i := range errs {
		if errs[i] != nil {
			continue
		}
		outcome := err
		if err == nil {
			outcome, outcomes = outcomes[0], outcomes[1:]
		}
		if outcome != nil {
			errs[i] = fmt.Errorf("write state: %w", outcome)
		}
	}
	return errs
}

// transaction checks what can be checked without looking at what is stored.
func transaction(writes []Write, opts TransactionOptions, now time.Time) (Unit, error) {
	if len(writes) > MaxTransactionSize {
		return Unit{}, &ArgumentError{Field: "operations", Value: fmt.Sprintf("(%d of them)", len(writes)),
			Allowed: fmt.Sprintf("at most %d in one transaction", MaxTransactionSize)}
	}
	end, err := idempotency(opts.IdempotencyKey, opts.IdempotencyWindow, now)
	if err != nil {
		return Unit{}, err
	}
	changes := make([]Change, len(writes))
	for i := range writes {
		if key := writes[i].IdempotencyKey; key != "" {
			return Unit{}, &ArgumentError{Field: fmt.Sprintf("operations[%d].idempotencyKey", i), Value: excerpt(key),
				Allowed: "empty: an idempotency key is for a transaction as a whole"}
		}
		if changes[i], err = writes[i].change(now); err != nil {
			return Unit{}, fmt.Errorf("operations[%d]: %w", i, err)
		}
	}
	return Unit{Changes: changes, IdempotencyKey: opts.IdempotencyKey, IdempotencyEnd: end}, nil
}
