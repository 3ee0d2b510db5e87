package statestore

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Op is what a Write does.
type Op uint8

const (
	// OpSet stores a value under a key.
	OpSet Op = iota + 1
	// OpDelete removes a key.
	OpDelete
)

// Write is one set or delete.
type Write struct {
	Op  Op
	Key string
	// ETag, unless empty, is the version that the key must be in.
	ETag string

	// The rest of the fields down to TTL is for sets.

	// Value is stored byte for byte. It must not change until the call returns.
	Value       []byte
	ContentType string
	// FirstWrite, without an ETag, asks for the key not to exist.
	FirstWrite bool
	// TTL is the time to live, from the call on; 0: the key stays, and an earlier time to live is cleared.
	TTL time.Duration

	// IdempotencyKey, unless empty, makes repeats of this write within IdempotencyWindow (0:
	// DefaultIdempotencyWindow) succeed without effect. They are for writes on their own; a transaction has its
	// idempotency key in its TransactionOptions.
	IdempotencyKey    string
	IdempotencyWindow time.Duration
}

// TransactionOptions are for a transaction as a whole; the zero value is the documented default.
type TransactionOptions struct {
	// IdempotencyKey, unless empty, makes repeats of this transaction within IdempotencyWindow succeed without effect.
	IdempotencyKey string
	// IdempotencyWindow is how long the key is remembered. Default: DefaultIdempotencyWindow.
	IdempotencyWindow time.Duration
}

// change checks a write on its own and turns it into what the engine needs.
func (w *Write) change(now time.Time) (Change, error) {
	if err := CheckKey(w.Key); err != nil {
		return Change{}, err
	}
	c := Change{Op: w.Op, Key: w.Key, ETag: w.ETag}
	switch w.Op {
	case OpDelete:
		return c, nil
	case OpSet:
	default:
		return Change{}, &ArgumentError{Field: "operation", Value: fmt.Sprint(w.Op), Allowed: "a set or a delete"}
	}
	switch {
	case len(w.Value) > MaxValueSize:
		return Change{}, &TooLargeError{Key: w.Key, Size: len(w.Value), Limit: MaxValueSize}
	case len(w.ContentType) > MaxContentTypeSize || !utf8.ValidString(w.ContentType):
		return Change{}, &ArgumentError{Field: "contentType", Value: excerpt(w.ContentType),
			Allowed: fmt.Sprintf("at most %d bytes of UTF-8", MaxContentTypeSize)}
	case w.TTL < 0 || w.TTL > MaxTTL:
		return Change{}, &ArgumentError{Field: "ttl", Value: w.TTL.String(), Allowed: fmt.Sprintf("0 to %s", MaxTTL)}
	}
	c.Value, c.ContentType, c.FirstWrite = w.Value, w.ContentType, w.FirstWrite
	if w.TTL > 0 {
		c.ExpiresAt = now.Add(w.TTL)
	}
	return c, nil
}

// CheckKey returns an ArgumentError for a key that cannot exist. Keys are UTF-8 because no gRPC answer could carry others.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeySize || !utf8.ValidString(key) {
		return &ArgumentError{Field: "key", Value: excerpt(key), Allowed: fmt.Sprintf("1 to %d bytes of UTF-8", MaxKeySize)}
	}
	return nil
}

// idempotency checks an idempotency key and its window, and says until when the key will be remembered.
func idempotency(key string, window time.Duration, now time.Time) (until time.Time, err error) {
	switch {
	case key == "":
		return time.Time{}, nil
	case len(key) > MaxIdempotencyKeySize:
		return time.Time{}, &ArgumentError{Field: "idempotencyKey", Value: excerpt(key),
			Allowed: fmt.Sprintf("at most %d bytes long", MaxIdempotencyKeySize)}
	case window < 0 || window > MaxTTL:
		return time.Time{}, &ArgumentError{Field: "idempotencyWindow", Value: window.String(),
			Allowed: fmt.Sprintf("0 (the default, %s) to %s", DefaultIdempotencyWindow, MaxTTL)}
	case window == 0:
		window = DefaultIdempotencyWindow
	}
	return now.Add(window), nil
}
