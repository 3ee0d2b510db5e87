package pubsub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Migrator is a namespace at rest, which can be copied to another one, and be such a copy. Nobody else works on it.
type Migrator interface {
	// Export shows all that the namespace holds and is not done yet: topics, then groups, then the rest; of what a group is owed,
	// what must come first is shown first. It returns visit's error.
	Export(ctx context.Context, visit func(Record) error) error
	// BeginImport makes the namespace ready for a copy of from, which names another one, whatever it is called. One that holds
	// anything is refused with ErrForeign, unless that is an unfinished copy of the same, which is removed. Until EndImport,
	// nobody can open the namespace to work on it.
	BeginImport(ctx context.Context, from string) error
	// Import adds records as Export has shown them. Sequences and ids of dead letters are new. After an error it is unknown
	// whether they were added.
	Import(ctx context.Context, records []Record) error
	// EndImport gives the namespace free for work.
	EndImport(ctx context.Context) error
}

// ErrForeign refuses to copy into a namespace that is neither empty nor an unfinished copy of the same.
var ErrForeign = errors.New("it holds something, and that is no unfinished copy of the source (one that is complete is not made again)")

// ErrUnfinishedCopy refuses to work on a namespace whose copy has begun and not ended.
var ErrUnfinishedCopy = errors.New("the copy that dapr-bolt migrate makes here is not complete: run it again, with the same files, to its end")

// RecordKind says what a Record is.
type RecordKind string

const (
	// RecordTopic is a topic: Topic and Limits.
	RecordTopic RecordKind = "topics"
	// RecordGroup says that Group consumes Topic, which may be a pattern.
	RecordGroup RecordKind = "groups"
	// RecordID is the id of an event that is remembered: ID, Window and Until.
	RecordID RecordKind = "ids"
	// RecordKept is an event of a topic that no group consumes.
	RecordKept RecordKind = "kept"
	// RecordDelayed is an event that is held back until its DeliverAt, or was.
	RecordDelayed RecordKind = "delayed"
	// RecordOwed is an event that Group is owed, with its History and when it is Due (zero: as soon as it is its turn).
	RecordOwed RecordKind = "owed"
	// RecordDead is a dead letter of Group, with its History, Reason and Time.
	RecordDead RecordKind = "deadLetters"
)

// Record is a part of what a namespace holds. Which fields stand says its Kind.
type Record struct {
	Kind   RecordKind
	Topic  string
	Group  string
	Limits TopicLimits
	ID     DedupHash
	Window time.Duration
	Until  time.Time

	Event   Event
	History History
	Due     time.Time
	Reason  Reason
	Time    time.Time
}

// DedupHash is a topic and what identifies an event in it, hashed: with 128 bits, two events of a billion share one with a
// chance of 1 in 10^20. Every engine stores it.
type DedupHash [16]byte

// NewDedupHash returns the hash of a topic and an Entry's DedupKey.
func NewDedupHash(topic string, key []byte) DedupHash {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 128), uint64(len(topic)))
	b = append(append(b, topic...), key...)
	sum := sha256.Sum256(b)
	return DedupHash(sum[:len(DedupHash{})])
}

// Copied says what was copied.
type Copied struct {
	Counts map[RecordKind]uint64 `json:"counts"`
	// Checksum is over all of it, the same for the source and its copy.
	Checksum string `json:"checksum"`
}

const (
	// copyPage and copyBytes bound one step of a copy.
	copyPage  = 256
	copyBytes = 1 << 20
	// idSlack is how much earlier than it should an id may end in a copy.
	idSlack = 5 * time.Second
)

// Copy copies a namespace to another one, which must be empty, or an unfinished copy of the same: that is begun anew. from
// names the source for people. Both are compared in the end. progress is called after each step with how many records it
// has dealt with; now tells which ids may have ended meanwhile.
func Copy(ctx context.Context, source Migrator, from string, target Migrator, now func() time.Time, progress func(records uint64)) (Copied, error) {
	if err := target.BeginImport(ctx, from); err != nil {
		return Copied{}, err
	}
	var page []Record
	size, done := 0, uint64(0)
	flush := func() error {
		if len(page) == 0 {
			return nil
		}
		if err := target.Import(ctx, page); err != nil {
			return err
		}
		done += uint64(len(page))
		page, size = page[:0], 0
		progress(done)
		return nil
	}
	var want, got summary
	err := source.Export(ctx, func(r Record) error {
		if err := want.add(&r); err != nil {
			return err
		}
		// A page is of one kind.
		if n := len(page); n > 0 && (n == copyPage || size > copyBytes || page[0].Kind != r.Kind) {
			if err := flush(); err != nil {
				return err
			}
		}
		page = append(page, r)
		size += r.Event.size() + r.History.size()
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = target.Export(ctx, func(r Record) error { return got.add(&r) })
	}
	if err != nil {
		return Copied{}, fmt.Errorf("copy events: %w", err)
	}
	copied, original := got.copied(), want.copied()
	for id, until := range want.ids {
		if _, there := got.ids[id]; !there && until.After(now().Add(idSlack)) {
			return copied, fmt.Errorf("the copy lacks the id of an event, with the hash %x: does somebody work on it?", id)
		}
	}
	if copied.Checksum != original.Checksum {
		return copied, fmt.Errorf("the copy differs from the source: %v with checksum %s, %v with %s expected: does somebody work on one of them?",
			copied.Counts, copied.Checksum, original.Counts, original.Checksum)
	}
	return copied, target.EndImport(ctx)
}

// summary adds records up, in whatever order they come.
type summary struct {
	counts map[RecordKind]uint64
	sum    [2]uint64
	ids    map[DedupHash]time.Time // until when; they end while a copy is made, and are not in the sum
}

func (s *summary) add(r *Record) error {
	if s.counts == nil {
		s.counts, s.ids = map[RecordKind]uint64{}, map[DedupHash]time.Time{}
	}
	if r.Kind == RecordID {
		s.ids[r.ID] = r.Until
		s.counts[r.Kind]++
		return nil
	}
	if r.Event.Unreadable != "" {
		return fmt.Errorf("an event of topic %q for group %q cannot be read: %s: handle or purge it first", r.Topic, r.Group, r.Event.Unreadable)
	}
	same := *r
	// What is new in a copy, or not everywhere.
	same.Event.Sequence, same.Limits.MaxBytes = 0, 0
	if same.Kind == RecordKept && !same.Event.DeliverAt.IsZero() {
		same.Kind = RecordDelayed
	}
	for _, t := range []*time.Time{&same.Event.PublishTime, &same.Event.DeliverAt, &same.Event.Expires, &same.Due, &same.Time} {
		*t = t.UTC()
	}
	same.History.Attempts = nil
	for _, a := range r.History.Attempts {
		same.History.Attempts = append(same.History.Attempts, Attempt{At: a.At.UTC(), Error: a.Error})
	}
	if len(same.Event.Metadata) == 0 {
		same.Event.Metadata = nil
	}
	if len(same.Event.Data) == 0 {
		same.Event.Data = nil
	}
	text, err := json.Marshal(same)
	if err != nil {
		return err
	}
	s.counts[same.Kind]++
	digest := sha256.Sum256(text)
	for i := range s.sum {
		s.sum[i] += binary.BigEndian.Uint64(digest[8*i:])
	}
	return nil
}

func (s *summary) copied() Copied {
	return Copied{Counts: s.counts, Checksum: fmt.Sprintf("%016x%016x", s.sum[0], s.sum[1])}
}
