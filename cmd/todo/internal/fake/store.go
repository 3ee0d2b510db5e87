// Package fake holds in-memory stand-ins for a sidecar, for tests of what is built on one.
package fake

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// Store is a store.Store in memory. Its hooks are called without its lock and may change or refuse what follows.
type Store struct {
	// BeforeApply runs before a change; its error is the change's, and nothing is written.
	BeforeApply func(c store.Change) error
	// AfterApply runs after a change took place; its error is the change's nevertheless, as when an answer is lost.
	AfterApply func(c store.Change) error
	// HonourIdempotencyKeys makes the store remember the idempotency keys of changes.
	HonourIdempotencyKeys bool

	mu      sync.Mutex
	version int
	records map[string]store.Entry
	keys    map[string]bool
}

// Get reads a record.
func (s *Store) Get(_ context.Context, key string) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[key], nil
}

// GetMany reads records.
func (s *Store) GetMany(_ context.Context, keys []string) (map[string]store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]store.Entry{}
	for _, key := range keys {
		if entry, ok := s.records[key]; ok {
			found[key] = entry
		}
	}
	return found, nil
}

// Apply makes a change.
func (s *Store) Apply(_ context.Context, c store.Change) error {
	if s.BeforeApply != nil {
		if err := s.BeforeApply(c); err != nil {
			return err
		}
	}
	if err := s.apply(c); err != nil {
		return err
	}
	if s.AfterApply != nil {
		return s.AfterApply(c)
	}
	return nil
}

func (s *Store) apply(c store.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records == nil {
		s.records, s.keys = map[string]store.Entry{}, map[string]bool{}
	}
	if s.HonourIdempotencyKeys && s.keys[c.IdempotencyKey] {
		return nil
	}
	next := maps.Clone(s.records)
	for _, w := range c.Writes {
		if next[w.Key].ETag != w.ETag {
			return store.ErrConflict
		}
		if w.Value == nil {
			delete(next, w.Key)
			continue
		}
		value, err := store.Encode(w)
		if err != nil {
			return err
		}
		s.version++
		next[w.Key] = store.Entry{Value: value, ETag: strconv.Itoa(s.version)}
	}
	s.records = next
	if c.IdempotencyKey != "" {
		s.keys[c.IdempotencyKey] = true
	}
	return nil
}

// Touch gives a record a new version with the same value, as another writer would.
func (s *Store) Touch(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry, ok := s.records[key]; ok {
		s.version++
		s.records[key] = store.Entry{Value: entry.Value, ETag: strconv.Itoa(s.version)}
	}
}

// Keys returns the keys of all records, sorted.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.records))
}
