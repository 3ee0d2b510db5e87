package pubsub

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// What NameLimits bound by default.
const (
	DefaultMaxTopics = 10_000
	DefaultMaxGroups = 1_000
)

// What the metadata of one event may have: entries, and bytes of their keys and values together.
const (
	MaxMetadataEntries = 1000
	MaxMetadataBytes   = 64 << 10
)

// checkMetadata refuses an event with more metadata than that.
func checkMetadata(metadata map[string]string) error {
	size := 0
	for k, v := range metadata {
		size += len(k) + len(v)
	}
	if len(metadata) <= MaxMetadataEntries && size <= MaxMetadataBytes {
		return nil
	}
	return invalid.New("metadata", fmt.Sprintf("of %d entries and %d bytes", len(metadata), size), fmt.Sprintf("at most %d entries and %d bytes for an event, keys and values together", MaxMetadataEntries, MaxMetadataBytes))
}

// MaxWait is the longest duration that anything to do with an event may have, some 68 years.
const MaxWait = math.MaxInt32 * time.Second

// LatestTime is the last instant that an event can be held back to: what is stored are nanoseconds in 64 bits.
var LatestTime = time.Unix(0, math.MaxInt64).UTC().Truncate(time.Second)

// checkDeliverAt refuses what comes after LatestTime.
func checkDeliverAt(t time.Time) error {
	if !t.After(LatestTime) {
		return nil
	}
	return invalid.New("deliverAt", t.Format(time.RFC3339), "a time up to "+LatestTime.Format(time.RFC3339))
}

var (
	// ErrTooManyTopics refuses a new topic beyond NameLimits.MaxTopics.
	ErrTooManyTopics = errors.New("too many topics")
	// ErrTooManyGroups refuses a new consumer group beyond NameLimits.MaxGroups.
	ErrTooManyGroups = errors.New("too many consumer groups")
)

// NameLimits bound the names that one namespace remembers for ever. Names that are there already stay in use, however
// many they are.
type NameLimits struct {
	// MaxTopics bounds the topics of the namespace. NewBroker's default: DefaultMaxTopics.
	MaxTopics int
	// MaxGroups bounds the consumer groups of one topic and, apart from them, the wildcard subscriptions of the namespace,
	// each a group and a pattern. NewBroker's default: DefaultMaxGroups.
	MaxGroups int
}

// WithDefaults returns the limits with NewBroker's defaults filled in.
func (l NameLimits) WithDefaults() NameLimits {
	return NameLimits{MaxTopics: cmp.Or(l.MaxTopics, DefaultMaxTopics), MaxGroups: cmp.Or(l.MaxGroups, DefaultMaxGroups)}
}

// AnotherTopic returns ErrTooManyTopics unless a namespace that has so many topics may get one more. A limit of zero
// is none.
func (l NameLimits) AnotherTopic(have uint64) error {
	if l.MaxTopics == 0 || have < uint64(l.MaxTopics) {
		return nil
	}
	return fmt.Errorf("%w: the bucket has %d; --max-topics allows no more than %d", ErrTooManyTopics, have, l.MaxTopics)
}

// AnotherGroup returns ErrTooManyGroups unless a topic that has so many groups, or a namespace with so many wildcard
// subscriptions, may get one more. A limit of zero is none.
func (l NameLimits) AnotherGroup(topic string, have uint64) error {
	switch {
	case l.MaxGroups == 0 || have < uint64(l.MaxGroups):
		return nil
	case IsPattern(topic):
		return fmt.Errorf("%w: the bucket has %d with wildcard subscriptions; --max-groups allows no more than %d", ErrTooManyGroups, have, l.MaxGroups)
	}
	return fmt.Errorf("%w: topic %q has %d; --max-groups allows no more than %d", ErrTooManyGroups, topic, have, l.MaxGroups)
}
