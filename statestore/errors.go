package statestore

import (
	"errors"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// What went wrong, for errors.Is. The concrete types below carry the details.
var (
	// ErrInvalidArgument means that the call cannot succeed, whatever is stored. See invalid.Error.
	ErrInvalidArgument = invalid.Err
	// ErrTooLarge means that a value is over MaxValueSize. See TooLargeError.
	ErrTooLarge = errors.New("too large")
	// ErrNoRoom means that a value was not read because the answer has no room for it.
	ErrNoRoom = errors.New("no room in the answer")
	// ErrDamaged means that what is stored cannot be read. See DamagedError.
	ErrDamaged = errors.New("damaged record")
	// ErrUnavailable means that the servers that hold the data did not answer, or not in time. What a write has done then is
	// unknown.
	ErrUnavailable = errors.New("the servers are not available")
	// ErrFull means that there is no room for more data, until somebody makes it. On servers, the first write that fails so may
	// have been stored.
	ErrFull = errors.New("no space is left")
)

// TooLargeError says which value is over the limit. Sizes are in bytes.
type TooLargeError struct {
	Key         string
	Size, Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("key %s: a value of %d bytes is too large: at most %d bytes are allowed", invalid.Quote(e.Key), e.Size, e.Limit)
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
