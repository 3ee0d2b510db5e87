package pubsub

import (
	"context"
	"time"
)

// Engine keeps the topics, groups and dead letters of one namespace durably. What a method has returned without an
// error is on disk. Each method is one atomic step; calls may come from any goroutine.
//
// Times are passed in, so that an engine never asks a clock.
type Engine interface {
	// Append stores entries at the end of topic in their order and decides duplicates, in one step. It returns one
	// result for each entry. An entry with an ID whose window is still open is a duplicate and is not stored again;
	// that holds between entries of one call too. A topic that is new is refused as opts say.
	Append(ctx context.Context, topic string, entries []Entry, opts AppendOptions, now time.Time) ([]AppendResult, error)
	// Promote moves at most limit delayed entries that are due into their topics. It returns the topics that grew and
	// when the next entry is due (zero: none is waiting).
	Promote(ctx context.Context, now time.Time, limit int) (topics []string, next time.Time, err error)
	// OpenGroup makes sure that group consumes topic, and returns the sequence up to which it is done. A new group
	// starts as policy says, if limits allow it.
	OpenGroup(ctx context.Context, topic, group string, policy DeliverPolicy, limits NameLimits) (done uint64, err error)
	// RemoveGroup ends group's part in topic and forgets what it was still owed, with its dead letters. It returns
	// ErrNotFound when there is no such group.
	RemoveGroup(ctx context.Context, topic, group string) error
	// RemoveTopic forgets topic, its events, its groups and their dead letters. Ids stay remembered for their window. It
	// returns ErrNotFound when there is no such topic. Like RemoveGroup, it takes effect in one step and needs many
	// small ones to give back what was stored; Sweep goes on with those that fail. In the one step, it asks may, whose error
	// it returns: no other call takes effect between the answer and the removal. may can be asked more than once.
	RemoveTopic(ctx context.Context, topic string, may func() error) error
	// Clear removes all topics, groups, dead letters and ids, in small steps. No number is given out twice.
	Clear(ctx context.Context) error
	// Topics lists the names of all topics that were ever published or subscribed to, and were not removed.
	Topics(ctx context.Context) ([]string, error)
	// Stats says what is stored, per topic and group: of the topics after a name, in order, whose name holds text, at most
	// limit of them (0: all). It does not walk what it counts. What is in memory alone is the broker's to count.
	Stats(ctx context.Context, after, text string, limit int) ([]TopicStats, error)
	// TopicStats is Stats of one topic, or ErrNotFound.
	TopicStats(ctx context.Context, topic string) (TopicStats, error)

	// An event, retry or dead letter that cannot be decoded is returned like any other, with Event.Unreadable.

	// ReadLog returns the events of topic after sequence after that group is not done with, in order: at most limit of
	// them, and no more than the first once they pass maxBytes. It has read the log up to sequence upTo.
	ReadLog(ctx context.Context, topic, group string, after uint64, limit, maxBytes int) (events []Event, upTo uint64, err error)
	// ReadRetries returns group's retries of topic that are due and that skip does not name, the longest due first. next is
	// when the earliest of the others is due (zero: there are none).
	ReadRetries(ctx context.Context, topic, group string, now time.Time, skip func(RetryKey) bool, limit, maxBytes int) (due []Retry, next time.Time, err error)
	// ReadRedriven returns group's redriven events of topic that skip does not name, in the order they were redriven, and
	// likewise those that were copied here.
	ReadRedriven(ctx context.Context, topic, group string, skip func(RetryKey) bool, limit, maxBytes int) ([]Retry, error)
	// Retrying counts group's retries of topic that have failed at least once, in all and by partition key.
	Retrying(ctx context.Context, topic, group string) (total int, byKey map[string]int, err error)
	// Settle records what became of deliveries. Events that every group is done with leave the topic. gone are the
	// indexes of settlements whose event had left the group meanwhile, and which changed nothing.
	Settle(ctx context.Context, topic, group string, settlements []Settlement) (gone []int, err error)

	// Events returns the last events before a sequence that topic keeps, the newest first: at most limit of them, and no more
	// than the first once they pass maxBytes.
	Events(ctx context.Context, topic string, before uint64, limit, maxBytes int) ([]Event, error)
	// Trace says where an event of topic stands for each group, or ErrNotFound if it was never there. It looks at no more
	// than scan retries of each group, and the newest scan dead letters.
	Trace(ctx context.Context, topic string, sequence uint64, scan int) (Trace, error)
	// Retries lists the retries and redriven events of topic's groups, from a place on, at most limit of them, and no more than
	// the first once they pass maxBytes. next is where to go on; zero: there are no more.
	Retries(ctx context.Context, topic string, from RetryPlace, limit, maxBytes int) (retries []GroupRetry, next RetryPlace, err error)
	// FindRetry returns the key of group's retry of an event of topic, or ErrNotFound. It looks at no more than scan of them.
	FindRetry(ctx context.Context, topic, group string, sequence uint64, scan int) (RetryKey, error)
	// MoveRetry makes a retry due at another time, and returns ErrNotFound if it is not there. Whoever calls it, or BuryRetry,
	// must be the only one who works on the group's retries.
	MoveRetry(ctx context.Context, topic, group string, key RetryKey, due time.Time) error
	// BuryRetry makes a dead letter of a retry or a redriven event, and returns ErrNotFound if it is not there.
	BuryRetry(ctx context.Context, topic, group string, key RetryKey, reason Reason, now time.Time) (Event, error)

	// DeadLetters lists dead letters by ascending ID: filter.Limit of them at most. It looks at no more than scan of them (0:
	// as many as it takes). next is what to continue after; zero: there are no more.
	DeadLetters(ctx context.Context, filter DeadLetterFilter, scan int) (found []DeadLetter, next uint64, err error)
	// DeadLetter returns one, or ErrNotFound.
	DeadLetter(ctx context.Context, id uint64) (DeadLetter, error)
	// Redrive moves dead letters back to their groups with their count reset, in one step. It returns those that it
	// moved; ids that are not there, that cannot be read, or whose group is gone, are left out.
	Redrive(ctx context.Context, ids []uint64) ([]DeadLetter, error)
	// Purge removes dead letters and returns how many there were.
	Purge(ctx context.Context, ids []uint64) (int, error)

	// Sweep forgets ids whose window has ended, in one bounded step. more says that a further step would find work.
	Sweep(ctx context.Context, now time.Time, limit int) (more bool, err error)
	// BuryAged takes events out of their topics that are older than MaxAge, in one bounded step; they go to the dead letters
	// of the groups that still owe them. Of the retries, it touches those of groups for which lock returns true, now or for
	// the same group before; whoever consumes such a group must wait for BuryAged to return. buried has one entry for
	// each dead letter. more says that a further step would find work.
	BuryAged(ctx context.Context, now time.Time, limit int, lock func(topic, group string) bool) (buried []AgedEvent, more bool, err error)
}

// AgedEvent says whose an event was that BuryAged has made a dead letter.
type AgedEvent struct{ Topic, Group string }

// Entry is a message as the engine stores it.
type Entry struct {
	// Event is held back until its DeliverAt, or appended at once.
	Event Event
	// DedupKey identifies the event for DedupWindow; empty: it is not deduplicated.
	DedupKey    []byte
	DedupWindow time.Duration
}

// TopicLimits bound what a topic keeps. Zero values are no limit.
type TopicLimits struct {
	// MaxAge is counted from when the event was published or, if it was held back, from when it was due. That of the
	// newest publish holds for all of the topic.
	MaxAge time.Duration
	// MaxBytes counts what the topic's events take wherever they stand, except as dead letters.
	MaxBytes int64
}

// AppendOptions hold for one call of Append. The zero value bounds nothing.
type AppendOptions struct {
	TopicLimits
	Names NameLimits
	// AllOrNothing stores no entry when one is refused: the others get ErrOthersRefused.
	AllOrNothing bool
}

// AppendResult is the outcome of one entry.
type AppendResult struct {
	// Sequence is the event's place in the topic; zero for a duplicate, a delayed or a refused entry.
	Sequence uint64
	// Duplicate says that the event was stored before.
	Duplicate bool
	// Err says why this entry alone was refused.
	Err error
}

// DeliverPolicy is where a new group starts.
type DeliverPolicy string

// The policies, under JetStream's names.
const (
	// DeliverAll starts with what the topic still keeps.
	DeliverAll DeliverPolicy = "all"
	// DeliverNew starts with what comes next.
	DeliverNew DeliverPolicy = "new"
)

// RetryKey identifies one retry or redriven event of a group.
type RetryKey struct {
	Redriven bool
	// Order is when a retry is due, in Unix nanoseconds, or the place of a redriven event among its like.
	Order    int64
	Sequence uint64
}

// Retry is an event that waits for another delivery to a group.
type Retry struct {
	Key   RetryKey
	Event Event
	// History of a retry that cannot be decoded has one delivery: it had one at least.
	History History
	// AgesAt is when the event is older than its topic's MaxAge: from then on it is due for the dead letters, not for a
	// delivery. Zero: never, as if it was redriven.
	AgesAt time.Time
	// After is, for a redriven event, the end of the topic when it was redriven: it goes out behind that.
	After uint64
}

// Outcome is what became of a delivery.
type Outcome int

const (
	// Acked ends the event for the group.
	Acked Outcome = iota
	// Retried delivers it again at Settlement.Due.
	Retried
	// Dead moves it to the group's dead letters.
	Dead
	// Expired ends the event for the group, since its time to live has.
	Expired
)

// Settlement is the end of one delivery.
type Settlement struct {
	Outcome  Outcome
	Sequence uint64
	// Retry is the key of the retry that was delivered; nil: the event came from the log.
	Retry *RetryKey
	// History stands after this delivery, for Retried and Dead.
	History History
	Due     time.Time // Retried
	Reason  Reason    // Dead
	At      time.Time // Dead

	// partitionKey is the event's.
	partitionKey string
}

// GroupStats counts what a group is owed of a topic.
type GroupStats struct {
	Group   string `json:"group"`
	Waiting uint64 `json:"waiting"`
	// InFlight counts the events that an app instance has and did not acknowledge yet.
	InFlight uint64 `json:"inFlight"`
	// Retrying counts the events that wait for their next delivery.
	Retrying uint64 `json:"retrying"`
	Dead     uint64 `json:"dead"`
	GroupCounts
	// OldestTime is when the oldest event that the group has not settled was published; dead letters are settled.
	OldestTime *time.Time `json:"oldestTime,omitempty"`
	// Streams counts the app instances that consume now.
	Streams int `json:"streams"`
}

// TopicStats counts what a topic holds.
type TopicStats struct {
	Topic   string `json:"topic"`
	Stored  uint64 `json:"stored"`
	Delayed uint64 `json:"delayed"`
	Bytes   int64  `json:"bytes"`
	// MaxBytes and MaxAge are the newest publisher's limits; 0: none.
	MaxBytes     int64         `json:"maxBytes"`
	MaxAge       time.Duration `json:"maxAge"`
	LastSequence uint64        `json:"lastSequence"`
	OldestTime   *time.Time    `json:"oldestTime,omitempty"`
	TopicCounts
	Groups []GroupStats `json:"groups"`
}
