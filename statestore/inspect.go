package statestore

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Inspector is what an Engine does for people who look into it. None of it walks what it does not show, but for
// what has expired and was not removed yet.
type Inspector interface {
	// Walk shows the keys from one on, in the order of their bytes, until visit returns false. An item's Value is valid until
	// visit returns; one that cannot be read has its Err, and one that has expired is not Found.
	Walk(ctx context.Context, from string, now time.Time, visit func(item Item) bool) error
	// IdempotencyKeys lists at most limit of those that are remembered, after the SHA-256 of one.
	IdempotencyKeys(ctx context.Context, after []byte, limit int) ([]IdempotencyKey, error)
	// IndexStates lists the indexes.
	IndexStates(ctx context.Context) ([]IndexState, error)
	// Clear removes up to limit records of any kind. more says that there are others. No ETag is given out twice.
	Clear(ctx context.Context, limit int) (more bool, err error)
}

// IdempotencyKey is one that is remembered until it expires, or a little longer. Of the key itself, only its SHA-256 is kept.
type IdempotencyKey struct {
	SHA256  []byte
	Expires time.Time
}

// IndexState is where an index stands.
type IndexState struct {
	Path string
	// Complete says that queries use it; else it is being built, and has dealt with so many Keys.
	Complete bool
	Keys     uint64
	// ManyKeys says that it has held a value with many keys (see IndexChange).
	ManyKeys bool
	// Expires is when it is removed, unless a Store that is asked for it runs.
	Expires time.Time
}

// KeyInfo is an Item without its Value.
type KeyInfo struct {
	Item
	// Size is the value's, in bytes.
	Size int
}

const (
	// inspectScan is how many keys one page looks at.
	inspectScan = 10_000
	// clearStep bounds the records that one commit of Clear removes.
	clearStep = 1024
)

// AppSeparator ends the part of a key that Dapr puts before the app's own, by default the app id
// (https://docs.dapr.io/developing-applications/building-blocks/state-management/howto-share-state/).
const AppSeparator = "||"

// Keys lists at most limit of the keys that begin with prefix, after a key, in the order of their bytes. next is the key to
// go on after; empty: there are no more. A page may be short, or empty, where it passes over much that has expired.
func (s *Store) Keys(ctx context.Context, prefix, after string, limit int) (keys []KeyInfo, next string, err error) {
	from := prefix
	if after != "" {
		from = max(from, after+"\x00")
	}
	last, scanned := "", 0
	err = s.engine.Walk(ctx, from, s.clock.Now(), func(item Item) bool {
		if !strings.HasPrefix(item.Key, prefix) {
			return false
		}
		if len(keys) == limit || scanned == inspectScan {
			next = last
			return false
		}
		last = item.Key
		scanned++
		if item.Found || item.Err != nil {
			info := KeyInfo{Item: item, Size: len(item.Value)}
			info.Value = nil
			keys = append(keys, info)
		}
		return true
	})
	if err != nil {
		return nil, "", fmt.Errorf("list keys: %w", err)
	}
	return keys, next, nil
}

// Apps lists at most limit of the apps that have keys, after one: what stands before the first || of a key, as Dapr writes
// keys. It looks at one key of each, and at no more than some thousand that are of no app. next is what to go on after; empty:
// there are no more.
func (s *Store) Apps(ctx context.Context, after string, limit int) (apps []string, next string, err error) {
	from := after
	for scanned := 0; ; scanned++ {
		key := ""
		if err := s.engine.Walk(ctx, from, s.clock.Now(), func(item Item) bool { key = item.Key; return false }); err != nil {
			return nil, "", fmt.Errorf("list apps: %w", err)
		}
		app, _, has := strings.Cut(key, AppSeparator)
		switch {
		case key == "":
			return apps, "", nil
		case len(apps) == limit || scanned == inspectScan:
			return apps, from, nil
		case has:
			apps = append(apps, app)
			// The first text behind all that begin with the app's prefix.
			from = app + "|}"
		default:
			from = key + "\x00"
		}
	}
}

// IdempotencyKeys lists at most limit of the idempotency keys, after the SHA-256 of one (nil: from the first).
func (s *Store) IdempotencyKeys(ctx context.Context, after []byte, limit int) ([]IdempotencyKey, error) {
	keys, err := s.engine.IdempotencyKeys(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list idempotency keys: %w", err)
	}
	return keys, nil
}

// Indexes lists the indexes and how far they are built.
func (s *Store) Indexes(ctx context.Context) ([]IndexState, error) {
	states, err := s.engine.IndexStates(ctx)
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	return states, nil
}

// Clear removes everything, in small steps. What is written meanwhile may go with it.
func (s *Store) Clear(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = s.engine.Clear(ctx, clearStep); err != nil {
			return fmt.Errorf("clear state: %w", err)
		}
	}
	return nil
}
