package statestore

import (
	"errors"
	"fmt"
)

// What went wrong, for errors.Is. The concrete types below carry the details.
var (
	// ErrETagMismatch means that the key is not in the version that the write asked for. See ETagMismatchError.
	ErrETagMismatch = errors.New("etag mismatch")
	// ErrInvalidArgument means that the call cannot succeed, whatever is stored. See ArgumentError.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrTooLarge means that a value is over MaxValueSize. See TooLargeError.
	ErrTooLarge = errors.New("too large")
	// ErrDamaged means that what is stored cannot be read. See DamagedError.
	ErrDamaged = errors.New("damaged record")
)

// ETagMismatchError says which write did not find the version that it asked for.
type ETagMismatchError struct {
	Key string
	// ETag is the one that the write asked for; empty: it asked for the key not to exist (first-write).
	ETag string
	// Stored is the ETag of the key's present version; empty: the key does not exist.
	Stored string
}

func (e *ETagMismatchError) Error() string {
	switch {
	case e.ETag == "":
		return fmt.Sprintf("key %s: it exists with etag %q, and a first-write without an etag is allowed only on a new key",
			excerpt(e.Key), e.Stored)
	case e.Stored == "":
		return fmt.Sprintf("key %s: etag %s does not match: the key does not exist", excerpt(e.Key), excerpt(e.ETag))
	default:
		return fmt.Sprintf("key %s: etag %s does not match: the key has etag %q", excerpt(e.Key), excerpt(e.ETag), e.Stored)
	}
}

// Unwrap returns ErrETagMismatch.
func (e *ETagMismatchError) Unwrap() error { return ErrETagMismatch }

// ArgumentError says what is wrong with a call.
type ArgumentError struct {
	// Field is the argument's name.
	Field string
	// Value is what was given, for people; long values are cut.
	Value string
	// Allowed says what would have been accepted.
	Allowed string
}

func (e *ArgumentError) Error() string {
	return fmt.Sprintf("%s %s is not allowed: it must be %s", e.Field, e.Value, e.Allowed)
}

// Unwrap returns ErrInvalidArgument.
func (e *ArgumentError) Unwrap() error { return ErrInvalidArgument }

// TooLargeError says which value is over the limit. Sizes are in bytes.
type TooLargeError struct {
	Key         string
	Size, Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("key %s: a value of %d bytes is too large: at most %d bytes are allowed", excerpt(e.Key), e.Size, e.Limit)
}

// Unwrap returns ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// DamagedError says which record cannot be read, and why. An unconditional set or delete of the key repairs it.
type DamagedError struct {
	// Record names what is damaged: a key's value or an idempotency key.
	Record string
	// Err says what the bytes do not conform to.
	Err error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s: %v: %v", e.Record, ErrDamaged, e.Err) }

// Unwrap returns ErrDamaged and the cause.
func (e *DamagedError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// excerpt quotes s for an error message and cuts it where it would drown the message.
func excerpt(s string) string {
	const longest = 128
	if len(s) <= longest {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:longest], len(s))
}
