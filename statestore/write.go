package statestore

import (
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
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

	// The rest of the fields is for sets.

	// Value is stored byte for byte. It must not change until the call returns.
	Value       []byte
	ContentType string
	// FirstWrite, without an ETag, asks for the key not to exist.
	FirstWrite bool
	// TTL is the time to live, from the write's commit on; 0: the key stays, and an earlier time to live is cleared.
	TTL time.Duration
}

// Transaction is writes that take effect as a whole, in order, or not at all.
type Transaction struct {
	Writes []Write
	// IdempotencyKey, unless empty, makes repeats of this transaction succeed without effect.
	IdempotencyKey string
	// IdempotencyWindow is how long the key is remembered. Default: DefaultIdempotencyWindow.
	IdempotencyWindow time.Duration
}

// check finds what is wrong with a transaction whatever is stored.
func (t *Transaction) check(limits Limits) error {
	switch {
	case len(t.Writes) > limits.MaxTransactionSize:
		return &invalid.Error{Field: "operations", Value: fmt.Sprintf("(%d of them)", len(t.Writes)),
			Allowed: fmt.Sprintf("at most %d in one transaction", limits.MaxTransactionSize)}
	case len(t.IdempotencyKey) > MaxIdempotencyKeySize:
		return invalid.New("idempotencyKey", t.IdempotencyKey, fmt.Sprintf("at most %d bytes long", MaxIdempotencyKeySize))
	case t.IdempotencyWindow < 0 || t.IdempotencyWindow > MaxTTL:
		return &invalid.Error{Field: "idempotencyWindow", Value: t.IdempotencyWindow.String(),
			Allowed: fmt.Sprintf("0 (the default, %s) to %s", DefaultIdempotencyWindow, MaxTTL)}
	}
	for i := range t.Writes {
		err := t.Writes[i].check(limits.MaxValueSize)
		if err != nil && len(t.Writes) > 1 {
			err = fmt.Errorf("operations[%d]: %w", i, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Write) check(maxValueSize int) error {
	if err := CheckKey(w.Key); err != nil {
		return err
	}
	switch {
	case w.Op != OpSet && w.Op != OpDelete:
		return &invalid.Error{Field: "operation", Value: fmt.Sprint(w.Op), Allowed: "a set or a delete"}
	case len(w.Value) > maxValueSize:
		return &TooLargeError{Key: w.Key, Size: len(w.Value), Limit: maxValueSize}
	case len(w.ContentType) > MaxContentTypeSize || !utf8.ValidString(w.ContentType):
		return invalid.New("contentType", w.ContentType, fmt.Sprintf("at most %d bytes of UTF-8", MaxContentTypeSize))
	case w.TTL < 0 || w.TTL > MaxTTL:
		return &invalid.Error{Field: "ttl", Value: w.TTL.String(), Allowed: fmt.Sprintf("0 to %s", MaxTTL)}
	}
	return nil
}

// CheckKey returns an invalid.Error for a key that cannot exist. Keys are UTF-8 because no gRPC answer could carry others.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeySize || !utf8.ValidString(key) {
		return invalid.New("key", key, fmt.Sprintf("1 to %d bytes of UTF-8", MaxKeySize))
	}
	return nil
}
