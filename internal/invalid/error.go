// Package invalid has the one error that refuses a value, whoever gave it: an app, a component's file, a command line.
package invalid

import (
	"errors"
	"fmt"
)

// Err is matched by each Error.
var Err = errors.New("invalid value")

// Error refuses a value.
type Error struct {
	// Field is what the value was given for.
	Field string
	// Value is what was given, for people: see Quote.
	Value string
	// Allowed says what would have been accepted.
	Allowed string
}

// New returns an Error that quotes the value.
func New(field, value, allowed string) *Error {
	return &Error{Field: field, Value: Quote(value), Allowed: allowed}
}

func (e *Error) Error() string {
	return fmt.Sprintf("invalid %s %s: allowed: %s", e.Field, e.Value, e.Allowed)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return Err }

// Quote returns a text in quotes, cut if it is long.
func Quote(text string) string {
	const longest = 128
	if len(text) > longest {
		return fmt.Sprintf("%q… (%d bytes)", text[:longest], len(text))
	}
	return fmt.Sprintf("%q", text)
}
