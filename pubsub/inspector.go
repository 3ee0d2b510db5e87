package pubsub

import (
	"context"
	"time"
)

// Inspector is what a Service can do besides for people who look into it. None of it reads more records than a page has, or
// than it says.
type Inspector interface {
	// StatsAfter is Stats of the topics after a name, in order, at most limit of them (0: all).
	StatsAfter(ctx context.Context, after string, limit int) ([]TopicStats, error)
	// TopicStats is Stats of one topic, or ErrNotFound.
	TopicStats(ctx context.Context, topic string) (TopicStats, error)
	// Consumers returns the streams that consume a topic, by group.
	Consumers(topic string) []Consumer
	// Events returns up to limit of the topic's last events before a sequence (0: of all), the newest first. Those that every
	// group has handled are not kept; of these it has the few that are remembered. next is what to continue before; zero:
	// there are no more.
	Events(ctx context.Context, topic string, before uint64, limit int) (events []Event, next uint64, err error)
	// Watch begins to watch a topic. Events that are held back are seen when they are published, with the sequence 0. The
	// caller must Close the Watch.
	Watch(topic string) *Watch
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
	// ScanDeadLetters is DeadLetters that looks at no more than scan of them, so that it may return fewer than there are. next
	// is what to continue after; zero: there are no more.
	ScanDeadLetters(ctx context.Context, filter DeadLetterFilter, scan int) (found []DeadLetter, next uint64, err error)
	// RemoveTopic forgets a topic, its events, its groups and their dead letters. Ids stay remembered for their window. A topic
	// that somebody consumes is refused.
	RemoveTopic(ctx context.Context, topic string) error
	// Clear forgets everything: topics, groups, dead letters and ids. A namespace that somebody consumes is refused.
	Clear(ctx context.Context) error
}

var _ Inspector = (*Broker)(nil)

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
