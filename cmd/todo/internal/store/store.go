// Package store says what the todo app needs of a state store: versioned records and changes that are all or nothing.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConflict says that a record was not at the version that a change named. Nothing was written.
	ErrConflict = errors.New("the record was changed by somebody else")
	// ErrUnavailable says that the store cannot be reached now. Whether a change was written is unknown.
	ErrUnavailable = errors.New("the state store cannot be reached")
)

// Entry is a record as it was read. The zero Entry is a record that does not exist.
type Entry struct {
	Value []byte
	// ETag names this version of the record.
	ETag string
}

// Write is one step of a change. There are no blind writes: each one names the version that it replaces.
type Write struct {
	Key string
	// Value is stored as JSON; nil deletes the record.
	Value any
	// ETag is the version to replace or delete. Empty: the record must not exist.
	ETag string
	// TTL ends the record after that time, counted in whole seconds. Zero: it lasts.
	TTL time.Duration
}

// Change is a list of writes that take place together or not at all.
type Change struct {
	Writes []Write
	// IdempotencyKey, in a store that knows such keys, lets the change succeed without effect when a change
	// with the same key has taken place. Apply then does not tell the two apart, so only a change whose
	// outcome nobody reads may carry one.
	IdempotencyKey string
}

// Store keeps records.
type Store interface {
	// Get reads a record; the zero Entry if there is none.
	Get(ctx context.Context, key string) (Entry, error)
	// GetMany reads records; those that do not exist are not in the answer. They are read one by one, not as
	// of one moment.
	GetMany(ctx context.Context, keys []string) (map[string]Entry, error)
	// Apply makes a change. It returns ErrConflict if any record is not at the version that the change names.
	Apply(ctx context.Context, c Change) error
}

// Load reads a record and decodes it. A record that does not exist is the zero value with an empty ETag.
func Load[T any](ctx context.Context, s Store, key string) (value T, etag string, err error) {
	entry, err := s.Get(ctx, key)
	if err != nil {
		return value, "", err
	}
	if entry.ETag == "" {
		return value, "", nil
	}
	value, err = Decode[T](key, entry)
	return value, entry.ETag, err
}

// Decode decodes a record that was read from key.
func Decode[T any](key string, entry Entry) (value T, err error) {
	if err := json.Unmarshal(entry.Value, &value); err != nil {
		return value, fmt.Errorf("decode record %q: %w", key, err)
	}
	return value, nil
}

// Encode encodes the record that w writes; w must not be a deletion.
func Encode(w Write) ([]byte, error) {
	value, err := json.Marshal(w.Value)
	if err != nil {
		return nil, fmt.Errorf("encode record %q: %w", w.Key, err)
	}
	return value, nil
}
