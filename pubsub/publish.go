package pubsub

import (
	"errors"
	"time"
)

// PublishOptions hold for one publisher; the zero value deduplicates nothing and bounds nothing.
type PublishOptions struct {
	DedupBy     DedupBy
	DedupWindow time.Duration
	Limits      TopicLimits
	// AllOrNothing stores no message when one is refused: the others get ErrOthersRefused.
	AllOrNothing bool
}

// NoIDWarning is what the log says, once for each topic, of events that are not deduplicated though they should be.
const NoIDWarning = "an event without an id is not deduplicated: publish with the metadata eventID, or set dedupBy to data or fields"

// WantsID reports whether the publisher expects that an event's id is known.
func (o *PublishOptions) WantsID() bool { return o.DedupWindow > 0 && o.DedupBy.mode == dedupID }

// NewEntries returns what is to be stored of messages, and each entry's place among them. An outcome says why its message
// is refused. There are no entries if nothing is to be stored.
func NewEntries(topic string, messages []Message, opts PublishOptions, now time.Time) (entries []Entry, places []int, outcomes []error) {
	outcomes = make([]error, len(messages))
	if err := checkTopic(topic); err != nil {
		return nil, nil, failAll(outcomes, err)
	}
	entries, places = make([]Entry, 0, len(messages)), make([]int, 0, len(messages))
	for i := range messages {
		entry, err := newEntry(topic, &messages[i], opts, now)
		if err != nil {
			outcomes[i] = err
			continue
		}
		entries, places = append(entries, entry), append(places, i)
	}
	if opts.AllOrNothing && len(entries) < len(messages) {
		return nil, nil, failAll(outcomes, ErrOthersRefused)
	}
	return entries, places, outcomes
}

// failAll gives err to those that have no outcome yet.
func failAll(outcomes []error, err error) []error {
	for i := range outcomes {
		if outcomes[i] == nil {
			outcomes[i] = err
		}
	}
	return outcomes
}

func newEntry(topic string, m *Message, opts PublishOptions, now time.Time) (Entry, error) {
	if err := errors.Join(checkMetadata(m.Metadata), checkDeliverAt(m.DeliverAt)); err != nil {
		return Entry{}, err
	}
	key, id, err := opts.DedupBy.key(m)
	if err != nil {
		return Entry{}, err
	}
	if opts.DedupWindow <= 0 {
		key = nil
	}
	e := Entry{
		Event: Event{
			Topic:        topic,
			ID:           id,
			Data:         m.Data,
			ContentType:  m.ContentType,
			Metadata:     m.Metadata,
			PublishTime:  now,
			PartitionKey: m.PartitionKey,
		},
		DedupKey:    key,
		DedupWindow: opts.DedupWindow,
	}
	if m.TTL > 0 {
		e.Event.Expires = now.Add(m.TTL)
	}
	if m.DeliverAt.After(now) {
		e.Event.DeliverAt = m.DeliverAt
	}
	return e, nil
}
