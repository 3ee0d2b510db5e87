package statestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
)

// ErrForeign refuses to copy into a bucket that holds what the source does not.
var ErrForeign = errors.New("it holds what the source does not")

// Copied says what was copied, or is there already.
type Copied struct {
	Keys            uint64 `json:"keys"`
	IdempotencyKeys uint64 `json:"idempotencyKeys"`
	// Checksum is over all of it, the same for the source and its copy.
	Checksum string `json:"checksum"`
}

const (
	// A page of a copy has so many keys or, beyond the first, so many bytes of values.
	copyPage  = 256
	copyBytes = 1 << 20
)

// Copy copies the live keys of a bucket, with their expiry, and its idempotency keys. The ETags of the copies are new: those
// of the source are refused there. Nobody else may work on either. What the target holds must be of the source, as a Copy
// leaves it that was killed; else the error is ErrForeign, and nothing was changed. Both are compared in the end. progress is
// called after each step.
func Copy(ctx context.Context, from, to Engine, now time.Time, progress func(Copied)) (Copied, error) {
	if err := isCopy(ctx, to, from, now); err != nil {
		return Copied{}, err
	}
	var done Copied
	err := contents(ctx, from, now, func(items []Item) error {
		there, err := to.Get(ctx, keysOf(items), copyBytes*16, now)
		if err != nil {
			return err
		}
		var missing []Transaction
		for i := range items {
			if !same(&items[i], &there[i]) {
				missing = append(missing, Transaction{Writes: []Write{setOf(&items[i], now)}})
			}
		}
		outcomes, err := to.Apply(ctx, missing, func() time.Time { return now })
		if err = errors.Join(append(outcomes, err)...); err != nil {
			return err
		}
		done.Keys += uint64(len(items))
		progress(done)
		return nil
	}, func(keys []IdempotencyKey) error {
		if err := to.AddIdempotencyKeys(ctx, keys); err != nil {
			return err
		}
		done.IdempotencyKeys += uint64(len(keys))
		progress(done)
		return nil
	})
	if err != nil {
		return done, fmt.Errorf("copy state: %w", err)
	}
	want, err := summary(ctx, from, now)
	if err != nil {
		return done, err
	}
	got, err := summary(ctx, to, now)
	if err != nil {
		return done, err
	}
	if got != want {
		return got, fmt.Errorf("the copy differs from the source: %d keys and %d idempotency keys with checksum %s, %d and %d with %s expected: does somebody write to one of them?",
			got.Keys, got.IdempotencyKeys, got.Checksum, want.Keys, want.IdempotencyKeys, want.Checksum)
	}
	return got, nil
}

func setOf(item *Item, now time.Time) Write {
	w := Write{Op: OpSet, Key: item.Key, Value: item.Value, ContentType: item.ContentType}
	if !item.Expires.IsZero() {
		w.TTL = item.Expires.Sub(now)
	}
	return w
}

func same(a, b *Item) bool {
	return a.Found == b.Found && a.ContentType == b.ContentType && a.Expires.Equal(b.Expires) && bytes.Equal(a.Value, b.Value)
}

func keysOf(items []Item) []string {
	keys := make([]string, len(items))
	for i := range items {
		keys[i] = items[i].Key
	}
	return keys
}

// isCopy returns ErrForeign unless all that the bucket holds is of the source.
func isCopy(ctx context.Context, bucket, source Engine, now time.Time) error {
	return contents(ctx, bucket, now, func(items []Item) error {
		theirs, err := source.Get(ctx, keysOf(items), copyBytes*16, now)
		if err != nil {
			return err
		}
		for i := range items {
			if !same(&items[i], &theirs[i]) {
				return fmt.Errorf("key %q: %w", items[i].Key, ErrForeign)
			}
		}
		return nil
	}, func(keys []IdempotencyKey) error {
		for _, k := range keys {
			theirs, err := source.IdempotencyKeys(ctx, before(k.SHA256), 1)
			if err != nil {
				return err
			}
			if len(theirs) == 0 || !bytes.Equal(theirs[0].SHA256, k.SHA256) || !theirs[0].Expires.Equal(k.Expires) {
				return fmt.Errorf("idempotency key with SHA-256 %x: %w", k.SHA256, ErrForeign)
			}
		}
		return nil
	})
}

// before returns the last digest, nearly, before one.
func before(digest []byte) []byte {
	b := bytes.Clone(digest)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]--; b[i] != 0xff {
			break
		}
	}
	return b
}

// contents shows all that a bucket holds, in pages.
func contents(ctx context.Context, bucket Inspector, now time.Time, items func([]Item) error, keys func([]IdempotencyKey) error) error {
	if err := pages(ctx, bucket, now, items); err != nil {
		return err
	}
	return idempotencyPages(ctx, bucket, now, keys)
}

// pages shows the live keys of a bucket, in their order. One that cannot be read is an error: it must be repaired first.
func pages(ctx context.Context, bucket Inspector, now time.Time, visit func(items []Item) error) error {
	for from, more := "", true; more; {
		var items []Item
		var damage error
		size := 0
		more = false
		err := bucket.Walk(ctx, from, now, func(item Item) bool {
			if len(items) == copyPage || size > copyBytes {
				more = true
				return false
			}
			from = item.Key + "\x00"
			switch {
			case item.Err != nil:
				damage = item.Err
				return false
			case item.Found:
				item.Value = bytes.Clone(item.Value)
				items = append(items, item)
				size += len(item.Value)
			}
			return true
		})
		if err = errors.Join(err, damage); err != nil {
			return err
		}
		if len(items) > 0 {
			if err := visit(items); err != nil {
				return err
			}
		}
	}
	return nil
}

// idempotencyPages shows the idempotency keys that are remembered at now.
func idempotencyPages(ctx context.Context, bucket Inspector, now time.Time, visit func(keys []IdempotencyKey) error) error {
	for after := []byte(nil); ; {
		page, err := bucket.IdempotencyKeys(ctx, after, copyPage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].SHA256
		live := page[:0]
		for _, k := range page {
			if !instant.Reached(k.Expires, now) {
				live = append(live, k)
			}
		}
		if len(live) > 0 {
			if err := visit(live); err != nil {
				return err
			}
		}
	}
}

// summary counts what a bucket holds.
func summary(ctx context.Context, bucket Inspector, now time.Time) (Copied, error) {
	var c Copied
	sum := sha256.New()
	part := func(b []byte) {
		_, _ = sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		_, _ = sum.Write(b)
	}
	instant := func(t time.Time) { part(binary.BigEndian.AppendUint64(nil, uint64(InstantOf(t)))) }
	err := contents(ctx, bucket, now, func(items []Item) error {
		for i := range items {
			part([]byte(items[i].Key))
			part(items[i].Value)
			part([]byte(items[i].ContentType))
			instant(items[i].Expires)
			c.Keys++
		}
		return nil
	}, func(keys []IdempotencyKey) error {
		for _, k := range keys {
			part(k.SHA256)
			instant(k.Expires)
			c.IdempotencyKeys++
		}
		return nil
	})
	c.Checksum = fmt.Sprintf("%x", sum.Sum(nil)[:16])
	return c, err
}
