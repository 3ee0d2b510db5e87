package boltengine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

var _ pubsub.Migrator = (*Engine)(nil)

// keyCopyOf, beside the buckets that layout.go draws, names what the bucket is an unfinished copy of.
var keyCopyOf = []byte("copyOf")

// Export implements pubsub.Migrator. visit must not write to the same file.
func (e *Engine) Export(ctx context.Context, visit func(pubsub.Record) error) error {
	return e.read(func(b *buckets) error {
		topics, err := b.listTopics()
		if err != nil {
			return err
		}
		x := &export{b: b, ctx: ctx, visit: visit, topics: topics}
		for _, part := range []func() error{x.names, x.ids, x.kept, x.delayed, x.owed, x.dead} {
			if err := part(); err != nil {
				return err
			}
		}
		return nil
	})
}

// export is an Export that is under way.
type export struct {
	b      *buckets
	ctx    context.Context
	visit  func(pubsub.Record) error
	topics []namedTopic
}

func (x *export) show(r pubsub.Record) error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	return x.visit(r)
}

// names shows topics, patterns, and the groups of each topic.
func (x *export) names() error {
	for _, t := range x.topics {
		limits := pubsub.TopicLimits{MaxAge: t.MaxAge, MaxBytes: t.MaxBytes}
		if err := x.show(pubsub.Record{Kind: pubsub.RecordTopic, Topic: t.name, Limits: limits}); err != nil {
			return err
		}
	}
	for k := range under(x.b.patterns(), nil) {
		group, pattern, _ := bytes.Cut(k, []byte{0})
		if err := x.show(pubsub.Record{Kind: pubsub.RecordGroup, Topic: string(pattern), Group: string(group)}); err != nil {
			return err
		}
	}
	return x.eachGroup(func(t namedTopic, g namedGroup) error {
		return x.show(pubsub.Record{Kind: pubsub.RecordGroup, Topic: t.name, Group: g.name})
	})
}

func (x *export) eachGroup(fn func(t namedTopic, g namedGroup) error) error {
	for _, t := range x.topics {
		groups, err := x.b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if err := fn(t, g); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *export) ids() error {
	for k, v := range under(x.b.ids(), nil) {
		at, err := parseDedupKey(k)
		if err != nil {
			return err
		}
		for until, hash := range eachDedupID(v) {
			if err := x.show(pubsub.Record{Kind: pubsub.RecordID, ID: hash, Window: at.window, Until: time.Unix(0, until)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// kept shows the events of topics without groups.
func (x *export) kept() error {
	for _, t := range x.topics {
		groups, err := x.b.groupsOf(t.ID)
		if err != nil {
			return err
		}
		for sequence := t.First; len(groups) == 0 && sequence <= t.Last; sequence++ {
			event := decodeEvent(x.b.log().Get(sequenceKey(t.ID, sequence)), t.name, sequence)
			if err := x.show(pubsub.Record{Kind: pubsub.RecordKept, Topic: t.name, Event: event}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *export) delayed() error {
	names := namesByID(x.topics)
	for k, v := range under(x.b.delayed(), nil) {
		_, topic, err := parseDelayedKey(k)
		if err != nil {
			return err
		}
		name, ok := names[topic]
		if !ok {
			continue // its topic was removed
		}
		if err := x.show(pubsub.Record{Kind: pubsub.RecordDelayed, Topic: name, Event: decodeEvent(v, name, 0)}); err != nil {
			return err
		}
	}
	return nil
}

// owed shows what each group is owed of each topic: retries in the order of their sequences, since a retry is what later events
// of its key wait for; then the log, with each redriven event behind the end of the log of its time.
func (x *export) owed() error {
	return x.eachGroup(func(t namedTopic, g namedGroup) error {
		retries, err := x.retryKeys(g.ID, false)
		if err != nil {
			return err
		}
		slices.SortFunc(retries, func(a, b pubsub.RetryKey) int {
			return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Order, b.Order))
		})
		for _, k := range retries {
			if err := x.showRetry(t, g, k, time.Unix(0, k.Order)); err != nil {
				return err
			}
		}
		redriven, err := x.retryKeys(g.ID, true)
		if err != nil {
			return err
		}
		before := func(end uint64) error {
			for len(redriven) > 0 {
				k := redriven[0]
				if decodeRetryRecord(x.b.retry().Get(retryKey(g.ID, k))).After >= end {
					return nil
				}
				if err := x.showRetry(t, g, k, time.Time{}); err != nil {
					return err
				}
				redriven = redriven[1:]
			}
			return nil
		}
		for sequence := max(g.Done+1, t.First); sequence <= t.Last; sequence++ {
			if x.b.done().Get(sequenceKey(g.ID, sequence)) != nil {
				continue
			}
			if err := before(sequence); err != nil {
				return err
			}
			event := decodeEvent(x.b.log().Get(sequenceKey(t.ID, sequence)), t.name, sequence)
			if err := x.show(pubsub.Record{Kind: pubsub.RecordOwed, Topic: t.name, Group: g.name, Event: event}); err != nil {
				return err
			}
		}
		return before(t.Last + 1)
	})
}

func (x *export) retryKeys(group uint32, redriven bool) (keys []pubsub.RetryKey, err error) {
	for k := range under(x.b.retry(), retryPrefix(group, redriven)) {
		_, key, err := parseRetryKey(k)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (x *export) showRetry(t namedTopic, g namedGroup, k pubsub.RetryKey, due time.Time) error {
	r := decodeRetry(x.b.retry().Get(retryKey(g.ID, k)), t.name, k)
	return x.show(pubsub.Record{Kind: pubsub.RecordOwed, Topic: t.name, Group: g.name, Event: r.Event, History: r.History, Due: due})
}

func (x *export) dead() error {
	for k, v := range under(x.b.dead(), nil) {
		d := decodeDeadRecord(v).deadLetter(binary.BigEndian.Uint64(k))
		if err := x.show(pubsub.Record{
			Kind: pubsub.RecordDead, Topic: d.Event.Topic, Group: d.Group, Event: d.Event, History: d.History, Reason: d.Reason, Time: d.Time,
		}); err != nil {
			return err
		}
	}
	return nil
}

// BeginImport implements pubsub.Migrator.
func (e *Engine) BeginImport(ctx context.Context, from string) error {
	foreign := fmt.Errorf("pub/sub bucket %s: %w", e.bucket.Name(), pubsub.ErrForeign)
	again := false
	err := e.update(ctx, func(b *buckets) error {
		switch of := b.top.Get(keyCopyOf); {
		case of != nil && string(of) != from:
			return refusal{fmt.Errorf("%w: an unfinished copy of %s", foreign, of)}
		case of != nil:
			again = true
			return nil
		}
		for _, part := range []*boltdb.Bucket{b.topics(), b.patterns(), b.delayed(), b.dead(), b.ids()} {
			if k, _ := part.Cursor().First(); k != nil {
				return refusal{foreign}
			}
		}
		return b.top.Put(keyCopyOf, []byte(from))
	})
	if err == nil && again {
		err = e.Clear(ctx)
	}
	return err
}

// EndImport implements pubsub.Migrator.
func (e *Engine) EndImport(ctx context.Context) error {
	return e.update(ctx, func(b *buckets) error { return b.top.Delete(keyCopyOf) })
}

// Import implements pubsub.Migrator. What groups are owed gets numbers of its topic that the log skips: each group has its
// own.
func (e *Engine) Import(ctx context.Context, records []pubsub.Record) error {
	return e.update(ctx, func(b *buckets) error {
		for i := range records {
			if err := b.add(&records[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *buckets) add(r *pubsub.Record) error {
	switch r.Kind {
	case pubsub.RecordID:
		return b.remember(r.ID, r.Window, r.Until)
	case pubsub.RecordGroup:
		if pubsub.IsPattern(r.Topic) {
			return b.patterns().Put(patternKey(r.Group, r.Topic), []byte{})
		}
	}
	t, err := b.ensureTopic(r.Topic)
	if err != nil {
		return err
	}
	raw, err := encodeEvent(&r.Event)
	if err != nil {
		return err
	}
	switch r.Kind {
	case pubsub.RecordTopic:
		t.MaxAge, t.MaxBytes = r.Limits.MaxAge, r.Limits.MaxBytes
	case pubsub.RecordGroup:
		_, err = b.ensureGroup(t, r.Group, pubsub.DeliverAll)
	case pubsub.RecordKept:
		err = b.appendLog(&t, raw)
	case pubsub.RecordDelayed:
		err = b.delay(&t, raw, r.Event.DeliverAt)
	case pubsub.RecordOwed:
		err = b.addOwed(&t, r, raw)
	case pubsub.RecordDead:
		err = b.bury(groupName{r.Topic, r.Group}, skipSequence(&t), raw, historyToRecord(r.History), r.Reason, r.Time)
	default:
		err = fmt.Errorf("a record of kind %q cannot be copied", r.Kind)
	}
	if err != nil {
		return err
	}
	b.putTopic(r.Topic, t)
	return nil
}

// skipSequence returns a number of the topic's that the log skips, or 0 if the log has begun.
func skipSequence(t *topicRecord) uint64 {
	if t.First <= t.Last {
		return 0
	}
	t.Last++
	t.First = t.Last + 1
	return t.Last
}

func (b *buckets) addOwed(t *topicRecord, r *pubsub.Record, event []byte) error {
	g, ok, err := b.group(t.ID, r.Group)
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("group %q of topic %q: %w", r.Group, r.Topic, pubsub.ErrNotFound))
	}
	key := pubsub.RetryKey{Sequence: skipSequence(t)}
	if r.Due.IsZero() {
		order, err := b.retry().NextSequence()
		if err != nil {
			return err
		}
		key.Redriven, key.Order = true, int64(order)
	} else {
		key.Order = r.Due.UnixNano()
	}
	return b.putRetry(t, g.ID, key, retryRecord{Event: event, History: historyToRecord(r.History)})
}
