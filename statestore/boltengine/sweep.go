package boltengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// sweepBytes bounds the values that one commit removes, in bytes, beside the last of them. A value counts once for itself
// and once for each index, which must look at it.
const sweepBytes = 4 << 20

// Sweep implements statestore.Engine. Its commits wait for others to ride along with.
func (e *engine) Sweep(ctx context.Context, now time.Time, limit int) (swept int, more bool, err error) {
	var s sweep
	err = e.update(ctx, e.db.UpdateDeferred, func(b bucket) error {
		s = sweep{b: b, now: now, limit: limit, indexes: b.indexes((*index).kept), from: e.sweptTo}
		s.all()
		if len(s.toDo) == 0 {
			return errNothing
		}
		if err := s.toDo.save(s.removing); err != nil {
			return err
		}
		return boltdb.Dirty(s.toDo.write(b))
	})
	if err != nil {
		return 0, false, fmt.Errorf("sweep state: %w", err)
	}
	e.sweptTo = s.reached
	return s.swept, s.more, s.damage
}

// sweep lists what one commit removes.
type sweep struct {
	b       bucket
	now     time.Time
	limit   int
	indexes []*index // that are kept
	from    []byte

	toDo  changes
	swept int
	bytes int
	more  bool
	// reached is where the next sweep begins, if there is more.
	reached  []byte
	damage   error
	removing []*index
}

func (s *sweep) all() {
	s.expired(layout.KindExpiry, s.value)
	s.expired(layout.KindIdempotencyTime, s.idempotencyRecord)
	for _, x := range s.b.indexes(func(x *index) bool { return !x.kept() || statestore.ExpiredInstant(x.Expires, s.now) }) {
		if s.more = s.more || s.swept >= s.limit; s.more {
			return
		}
		var removed int
		removed, s.more = x.remove(s.b, s.limit-s.swept, &s.toDo)
		s.swept += max(removed, 1)
		s.removing = append(s.removing, x)
	}
}

// expired removes the entries in time order that are over, with what remove makes of them.
func (s *sweep) expired(prefix byte, remove func(instant int64, of []byte) error) {
	if s.more {
		return
	}
	first := []byte{prefix}
	if len(s.from) > 0 && s.from[0] == prefix {
		first = s.from
	}
	for k := range s.b.walk(first, 1) {
		instant, of, err := layout.ParseTimeKey(k)
		if err == nil && !statestore.ExpiredInstant(instant, s.now) {
			return
		}
		if s.swept >= s.limit || s.bytes >= sweepBytes {
			s.more, s.reached = true, bytes.Clone(k)
			return
		}
		if err == nil {
			err = remove(instant, of)
		} else { // a malformed entry can only be removed
			err = fmt.Errorf("%w: %w", statestore.ErrDamaged, err)
		}
		s.damage = errors.Join(s.damage, err)
		s.toDo.delete(bytes.Clone(k))
		s.swept++
	}
}

// value removes the key that expires at instant, unless it was set anew or deleted since.
func (s *sweep) value(instant int64, key []byte) error {
	target := valueKey(key)
	raw := s.b.Get(target)
	if raw == nil {
		return nil
	}
	r, err := decodeRecord(target, raw)
	if err != nil || r.Expires != instant {
		return err
	}
	s.bytes += len(raw) * (1 + len(s.indexes))
	s.toDo.delete(target)
	s.toDo.reindex(s.indexes, key, r.Value, nil)
	return nil
}

// idempotencyRecord is value for idempotency keys. A damaged record goes too: it has one entry in time order, which says
// that it is over, and would otherwise stand in the way of its key for ever.
func (s *sweep) idempotencyRecord(instant int64, digest []byte) error {
	target := idempotencyKey(digest)
	raw := s.b.Get(target)
	if raw == nil {
		return nil
	}
	expires, err := decodeIdempotency(target, raw)
	if err == nil && expires != instant {
		return nil
	}
	s.toDo.delete(target)
	return err
}
