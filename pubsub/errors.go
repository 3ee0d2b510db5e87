package pubsub

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed answers calls on a broker that was closed.
	ErrClosed = errors.New("the broker is closed")
	// ErrNotFound means that nothing of that name or id is there.
	ErrNotFound = errors.New("not found")
	// ErrTopicFull refuses a publish to a topic that has reached its maxBytes. It can be tried again.
	ErrTopicFull = errors.New("the topic is full")
	// ErrOthersRefused is the outcome of a message with which nothing is wrong, in a publish of all or nothing.
	ErrOthersRefused = errors.New("not stored, as another event of the same publish cannot be")
	// ErrTooLarge refuses an event that could never be delivered.
	ErrTooLarge = errors.New("the event is too large")
)

// InvalidError refuses input: it names the field, the value and what is allowed.
type InvalidError struct {
	Field, Value, Allowed string
}

func (e *InvalidError) Error() string {
	const longest = 64
	value := e.Value
	if len(value) > longest {
		value = value[:longest] + "…"
	}
	return fmt.Sprintf("invalid %s %q: allowed: %s", e.Field, value, e.Allowed)
}
