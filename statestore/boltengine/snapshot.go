package boltengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

const (
	// checkEvery is how many bytes of records a walk may pass before it looks whether its context has ended.
	checkEvery = 1 << 20
	// passCost is what passing a record counts beside its bytes.
	passCost = 4 << 10
)

// View implements statestore.Engine.
func (e *engine) View(ctx context.Context, now time.Time, fn func(statestore.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.view(func(b bucket) error {
		return fn(&snapshot{ctx: ctx, b: b, now: now, indexes: b.indexes((*index).complete)})
	})
}

// snapshot is a read transaction.
type snapshot struct {
	ctx     context.Context
	b       bucket
	now     time.Time
	passed  int      // since the context was last looked at, in bytes
	indexes []*index // that are complete
}

// Get implements statestore.Snapshot.
func (s *snapshot) Get(key string, room int) statestore.Item {
	return s.b.get(key, room, s.now)
}

// Scan implements statestore.Snapshot.
func (s *snapshot) Scan(last string, visit func(key, value []byte) bool) error {
	for k, v := range s.b.walk(after(valueKey(last)), 1) {
		found, err := s.pass(k, v)
		if err != nil {
			return err
		}
		if found.version != 0 && !visit(k[1:], found.Value) {
			return nil
		}
	}
	return nil
}

// pass reads a record; its version is 0 if it has expired.
func (s *snapshot) pass(k, raw []byte) (record, error) {
	if s.passed += len(raw) + passCost; s.passed >= checkEvery {
		s.passed = 0
		if err := s.ctx.Err(); err != nil {
			return record{}, err
		}
	}
	found, err := decodeRecord(k, raw)
	if err != nil || statestore.ExpiredInstant(found.Expires, s.now) {
		return record{}, err
	}
	return found, nil
}

// Indexes implements statestore.Snapshot.
func (s *snapshot) Indexes() map[string]bool {
	complete := make(map[string]bool)
	for _, x := range s.indexes {
		complete[x.Path] = x.Many
	}
	return complete
}

// Lookup implements statestore.Snapshot.
func (s *snapshot) Lookup(path string, r statestore.IndexRange, last string, visit func(indexKey, key, value []byte) bool) error {
	i := slices.IndexFunc(s.indexes, func(x *index) bool { return x.Path == path })
	if i < 0 {
		return fmt.Errorf("there is no complete index on %q", path)
	}
	from, _ := layout.IndexEntry(s.indexes[i].id, r.From, nil)
	if r.Single() {
		from = after(append(from, last...))
	}
	for k, v := range s.b.walk(from, len(layout.IndexEntryPrefix(0))) {
		indexKey, key, ok := layout.ParseIndexEntry(k, v)
		if !ok {
			return &statestore.DamagedError{Record: fmt.Sprintf("index on %q", path), Err: errors.New("an entry has not the form of one")}
		}
		if r.Below(indexKey) {
			return nil
		}
		if string(key) <= last {
			continue
		}
		valueKey := valueKey(key)
		raw := s.b.Get(valueKey)
		if raw == nil {
			continue
		}
		found, err := s.pass(valueKey, raw)
		if err != nil {
			return err
		}
		if found.version != 0 && !visit(indexKey, key, found.Value) {
			return nil
		}
	}
	return nil
}
