package pubsub

import (
	"context"
	"time"
)

// Inspector is what a Service does for people who look into it. None of it reads more records than a page has, or
// than it says.
type Inspector interface {
	// Stats counts what is stored and what is in flight, by topic and group: of the topics after a name, in order, at most
	// limit of them (0: all), of those whose name holds text, as HoldsText has it.
	Stats(ctx context.Context, after, text string, limit int) ([]TopicStats, error)
	// TopicStats is Stats of one topic, or ErrNotFound.
	TopicStats(ctx context.Context, topic string) (TopicStats, error)
	// Consumers returns the streams of this process that consume a topic, by group.
	Consumers(topic string) []Consumer
	// Events returns up to limit of the topic's last events before a sequence (0: of all), the newest first. Those that every
	// group has handled are not kept; of these it has the few that are remembered. next is what to continue before; zero:
	// there are no more.
	Events(ctx context.Context, topic string, before uint64, limit int) (events []Event, next uint64, err error)
	// Watch begins to watch a topic. Events that are held back are seen when they are published, with the sequence 0. The
	// caller must Close the Watch.
	Watch(ctx context.Context, topic string) (Watch, error)
	// Trace says where an event of topic stands for each group, or ErrNotFound if it was never there.
	Trace(ctx context.Context, topic string, sequence uint64) (Trace, error)
	// Retries lists the retries and redriven events of topic's groups, from a place on, at most limit of them. next is where
	// to go on; zero: there are no more.
	Retries(ctx context.Context, topic string, from RetryPlace, limit int) (retries []GroupRetry, next RetryPlace, err error)
	// RetryNow makes the retry of an event due at once. It returns ErrNotFound if the group has none, and ErrInFlight if it is
	// being delivered.
	RetryNow(ctx context.Context, topic, group string, sequence uint64) error
	// SkipRetry makes a dead letter of the retry of an event, with the same errors.
	SkipRetry(ctx context.Context, topic, group string, sequence uint64) error
	// DeadLetters lists dead letters by ascending ID, one page at a time. It looks at no more than scan of them (0: all), so
	// that it may return fewer than there are. next is what to continue after; zero: there are no more.
	DeadLetters(ctx context.Context, filter DeadLetterFilter, scan int) (found []DeadLetter, next uint64, err error)
	// RemoveTopic forgets a topic, its events, its groups and their dead letters. Ids stay remembered for their window. A topic
	// that somebody consumes is refused.
	RemoveTopic(ctx context.Context, topic string) error
	// Clear forgets everything: topics, groups, dead letters and ids. A namespace that somebody consumes is refused.
	Clear(ctx context.Context) error
}

// Watch sees the new events of a topic as they are published, until it is closed. One that is not read in time misses some.
// Its methods may be called from any goroutine.
type Watch interface {
	// Events returns the channel of the new events.
	Events() <-chan Event
	// Missed returns how many events could not be shown since the last call.
	Missed() uint64
	// Close ends the Watch.
	Close()
}

// WatchBuffer is how many events a Watch may be behind.
const WatchBuffer = 256

// Consumer is a stream that consumes a topic.
type Consumer struct {
	SubscribeOptions
	// InFlight counts what it has not answered yet, of all its topics.
	InFlight int
	// OldestSince is since when it is the turn of the oldest of those; zero: there is none.
	OldestSince time.Time
	Paused      bool
	// Silent: the time of an event ran out, and the app has not answered anything since then.
	Silent bool
}
