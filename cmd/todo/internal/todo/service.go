package todo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// Options sets a Service up. Store and Relay are required.
type Options struct {
	Store store.Store
	Relay *Relay
	// Clock defaults to the real one.
	Clock clockwork.Clock
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Service keeps todos. Its methods may be called at the same time, also by several processes on one store.
type Service struct {
	store  store.Store
	relay  *Relay
	clock  clockwork.Clock
	logger *slog.Logger
}

// Version is a todo as it stood at one moment.
type Version struct {
	Todo Todo
	ETag string
}

// NewService makes a Service.
func NewService(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: o.Store, relay: o.Relay, clock: o.Clock, logger: o.Logger}
}

// Create stores a new todo together with its task-created event.
//
// With a key, a second call with the same key and draft within 24 hours returns the first one's todo as it is
// now and reports created as false; with another draft it is ErrKeyReused, after a deletion ErrGone. That holds
// for calls that race, and after a crash at any point.
func (s *Service) Create(ctx context.Context, d Draft, key string) (v Version, created bool, err error) {
	if err := checkKey(key); err != nil {
		return Version{}, false, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Version{}, false, fmt.Errorf("make a todo id: %w", err)
	}
	t, err := d.todo(id.String(), s.clock.Now().UTC())
	if err != nil {
		return Version{}, false, err
	}
	created = true
	err = store.Retry(ctx, func(ctx context.Context) error {
		var writes []store.Write
		if key != "" {
			write, first, err := s.claim(ctx, key, d, t.ID)
			if err != nil {
				return err
			}
			// The claim of this very call is there already if its transaction took place and only the answer was lost.
			if first.TodoID != "" {
				created = first.TodoID == t.ID
				t.ID = first.TodoID
				return nil
			}
			writes = append(writes, write)
		}
		listed, err := s.list(ctx, t.ID)
		if err != nil {
			return err
		}
		writes = append(writes, store.Write{Key: todoKey(t.ID), Value: t}, listed)
		return s.apply(ctx, writes, event.TaskCreated, t.ID, event.Created{TodoID: t.ID, Title: t.Title, Due: t.Due})
	})
	if err != nil {
		return Version{}, false, fmt.Errorf("create todo: %w", err)
	}
	v, err = s.Get(ctx, t.ID)
	if !created && errors.Is(err, ErrNotFound) {
		err = ErrGone
	}
	return v, created, err
}

// claim returns the write that gives a key to a todo, or the request that has the key already.
func (s *Service) claim(ctx context.Context, key string, d Draft, id string) (store.Write, request, error) {
	fingerprint, err := json.Marshal(d)
	if err != nil {
		return store.Write{}, request{}, fmt.Errorf("encode draft: %w", err)
	}
	mine := request{TodoID: id, Fingerprint: digest(fingerprint)}
	record := requestKey(digest([]byte(key)))
	first, etag, err := store.Load[request](ctx, s.store, record)
	if err != nil {
		return store.Write{}, request{}, err
	}
	if etag != "" && first.Fingerprint != mine.Fingerprint {
		return store.Write{}, request{}, fmt.Errorf("%w: Idempotency-Key %q made todo %s", ErrKeyReused, key, first.TodoID)
	}
	return store.Write{Key: record, Value: mine, TTL: requestMemory}, first, nil
}

// Get returns a todo, or ErrNotFound.
func (s *Service) Get(ctx context.Context, id string) (Version, error) {
	t, etag, err := store.Load[Todo](ctx, s.store, todoKey(id))
	if err != nil {
		return Version{}, fmt.Errorf("get todo %s: %w", id, err)
	}
	if etag == "" {
		return Version{}, fmt.Errorf("%w: id is %q", ErrNotFound, id)
	}
	return Version{Todo: t, ETag: etag}, nil
}

// List returns todos in the order of their creation: those after the given id, limit of them at most.
func (s *Service) List(ctx context.Context, after string, limit int) ([]Todo, error) {
	keys := make([]string, shards)
	for shard := range keys {
		keys[shard] = indexKey(shard)
	}
	entries, err := s.store.GetMany(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("list todos: %w", err)
	}
	var ids []string
	for key, entry := range entries {
		idx, err := store.Decode[index](key, entry)
		if err != nil {
			return nil, fmt.Errorf("list todos: %w", err)
		}
		ids = append(ids, idx.IDs...)
	}
	// The ids are UUIDs of version 7: their order is that of their making.
	slices.Sort(ids)
	start, found := slices.BinarySearch(ids, after)
	if found {
		start++
	}
	ids = ids[start:]
	ids = ids[:min(limit, len(ids))]
	return s.getMany(ctx, ids)
}

func (s *Service) getMany(ctx context.Context, ids []string) ([]Todo, error) {
	// One answer of a sidecar holds 4 MiB; a batch of the longest todos stays under a quarter of that.
	const batch = 50
	todos := make([]Todo, 0, len(ids))
	for ids := range slices.Chunk(ids, batch) {
		keys := make([]string, len(ids))
		for i, id := range ids {
			keys[i] = todoKey(id)
		}
		entries, err := s.store.GetMany(ctx, keys)
		if err != nil {
			return nil, fmt.Errorf("list todos: %w", err)
		}
		for _, key := range keys {
			// One that was deleted since the index was read is left out.
			entry, ok := entries[key]
			if !ok {
				continue
			}
			t, err := store.Decode[Todo](key, entry)
			if err != nil {
				return nil, fmt.Errorf("list todos: %w", err)
			}
			todos = append(todos, t)
		}
	}
	return todos, nil
}

// Edit changes title and notes of the version that the caller read; if the todo has another one now, ErrVersion.
func (s *Service) Edit(ctx context.Context, id, etag string, p Patch) (Version, error) {
	v, err := s.getVersion(ctx, id, etag)
	if err != nil {
		return Version{}, err
	}
	if err := v.Todo.edit(p, s.clock.Now().UTC()); err != nil {
		return Version{}, err
	}
	err = s.store.Apply(ctx, store.Change{Writes: []store.Write{{Key: todoKey(id), Value: v.Todo, ETag: v.ETag}}})
	if errors.Is(err, store.ErrConflict) {
		err = fmt.Errorf("%w: %w", ErrVersion, err)
	}
	if err != nil {
		return Version{}, fmt.Errorf("edit todo %s: %w", id, err)
	}
	return s.Get(ctx, id)
}

// Complete completes an open todo and stores its task-completed event with it. A completed one stays as it is. With an etag,
// the todo must be at that version, else ErrVersion.
func (s *Service) Complete(ctx context.Context, id, etag string) (Version, error) {
	err := store.Retry(ctx, func(ctx context.Context) error {
		v, err := s.getVersion(ctx, id, etag)
		if err != nil {
			return err
		}
		now := s.clock.Now().UTC()
		changed, err := v.Todo.complete(now)
		if err != nil || !changed {
			return err
		}
		writes := []store.Write{{Key: todoKey(id), Value: v.Todo, ETag: v.ETag}}
		return s.apply(ctx, writes, event.TaskCompleted, id, event.Completed{TodoID: id, CompletedAt: now})
	})
	if err != nil {
		return Version{}, fmt.Errorf("complete todo %s: %w", id, err)
	}
	return s.Get(ctx, id)
}

// Delete deletes a todo; an open one takes a task-deleted event with it, so that its slot is free again. With an
// etag, the todo must be at that version, else ErrVersion.
func (s *Service) Delete(ctx context.Context, id, etag string) error {
	err := store.Retry(ctx, func(ctx context.Context) error {
		v, err := s.getVersion(ctx, id, etag)
		if err != nil {
			return err
		}
		unlisted, err := s.unlist(ctx, id)
		if err != nil {
			return err
		}
		writes := []store.Write{{Key: todoKey(id), ETag: v.ETag}, unlisted}
		if !v.Todo.open() {
			return s.store.Apply(ctx, store.Change{Writes: writes})
		}
		return s.apply(ctx, writes, event.TaskDeleted, id, event.Deleted{TodoID: id})
	})
	if err != nil {
		return fmt.Errorf("delete todo %s: %w", id, err)
	}
	return nil
}

func (s *Service) getVersion(ctx context.Context, id, etag string) (Version, error) {
	v, err := s.Get(ctx, id)
	if err != nil {
		return Version{}, err
	}
	if etag != "" && etag != v.ETag {
		return Version{}, fmt.Errorf("%w: it is at version %q, not %q", ErrVersion, v.ETag, etag)
	}
	return v, nil
}

// apply makes the writes together with the intent to publish an event.
func (s *Service) apply(ctx context.Context, writes []store.Write, topic, id string, data any) error {
	e, err := event.New(topic, id, data)
	if err != nil {
		return err
	}
	pending, err := s.relay.enqueue(ctx, e)
	if err != nil {
		return err
	}
	// Told also after an error: the change may have taken place all the same.
	defer s.relay.wake(id)
	return s.store.Apply(ctx, store.Change{Writes: append(writes, pending)})
}

func (s *Service) list(ctx context.Context, id string) (store.Write, error) {
	key := indexKey(shardOf(id))
	idx, etag, err := store.Load[index](ctx, s.store, key)
	idx.IDs = append(idx.IDs, id)
	return store.Write{Key: key, Value: idx, ETag: etag}, err
}

func (s *Service) unlist(ctx context.Context, id string) (store.Write, error) {
	key := indexKey(shardOf(id))
	idx, etag, err := store.Load[index](ctx, s.store, key)
	idx.IDs = slices.DeleteFunc(idx.IDs, func(listed string) bool { return listed == id })
	return store.Write{Key: key, Value: idx, ETag: etag}, err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
