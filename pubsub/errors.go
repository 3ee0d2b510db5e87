package pubsub

import "errors"

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
