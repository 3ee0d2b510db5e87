package boltengine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// publish is one call of Append.
type publish struct {
	topic   string
	entries []pubsub.Entry
	opts    pubsub.AppendOptions
	now     time.Time

	// The rest is one for each entry.
	encoded [][]byte
	hashes  []pubsub.DedupHash
	results []pubsub.AppendResult
}

// Append implements pubsub.Engine.
func (e *Engine) Append(ctx context.Context, topic string, entries []pubsub.Entry, opts pubsub.AppendOptions, now time.Time) ([]pubsub.AppendResult, error) {
	// What can be done before the writer's turn is done here.
	p := &publish{
		topic: topic, entries: entries, opts: opts, now: now,
		encoded: make([][]byte, len(entries)),
		hashes:  make([]pubsub.DedupHash, len(entries)),
		results: make([]pubsub.AppendResult, len(entries)),
	}
	for i := range entries {
		var err error
		if p.encoded[i], err = encodeEvent(&entries[i].Event); err != nil {
			return nil, err
		}
		if entries[i].DedupKey != nil {
			p.hashes[i] = pubsub.NewDedupHash(topic, entries[i].DedupKey)
		}
	}
	err := e.update(ctx, func(b *buckets) error {
		clear(p.results)
		return e.append(b, p)
	})
	if err != nil {
		return nil, err
	}
	return p.results, nil
}

func (e *Engine) append(b *buckets, p *publish) error {
	t, ok, err := b.topic(p.topic)
	if err != nil {
		return err
	}
	if !ok {
		if err := p.opts.Names.AnotherTopic(e.countNow(b, allTopics())); err != nil {
			return refusal{err}
		}
	}
	if nothing := e.checkEntries(b, p, t.Bytes); nothing || p.opts.AllOrNothing && p.refuseOthers() {
		return nil
	}
	if t, err = b.ensureTopic(p.topic); err != nil {
		return err
	}
	t.MaxAge, t.MaxBytes = p.opts.MaxAge, p.opts.MaxBytes
	for i := range p.entries {
		if p.results[i].Duplicate || p.results[i].Err != nil {
			continue
		}
		entry := &p.entries[i]
		if entry.DedupKey != nil {
			if err := b.remember(p.hashes[i], entry.DedupWindow, p.now.Add(entry.DedupWindow)); err != nil {
				return err
			}
		}
		if at := entry.Event.DeliverAt; !at.IsZero() {
			if err := b.delay(&t, p.encoded[i], at); err != nil {
				return err
			}
			continue
		}
		if err := b.appendLog(&t, p.encoded[i]); err != nil {
			return err
		}
		p.results[i].Sequence = t.Last
	}
	b.putTopic(p.topic, t)
	return nil
}

// checkEntries marks the entries that are duplicates or for which a topic of so many bytes has no room, and reports
// whether there is nothing to write. It writes nothing itself.
func (e *Engine) checkEntries(b *buckets, p *publish, held int64) (nothing bool) {
	nothing = true
	// Twice in one call: the first one counts, and takes room once.
	accepted := make(map[pubsub.DedupHash]bool, len(p.entries))
	for i := range p.entries {
		if p.entries[i].DedupKey != nil {
			if accepted[p.hashes[i]] || e.contains(b, p.hashes[i], p.now) {
				p.results[i].Duplicate = true
				continue
			}
		}
		size, limit := int64(len(p.encoded[i])), p.opts.MaxBytes
		if limit > 0 && held+size > limit {
			p.results[i].Err = fmt.Errorf("%w: topic %q holds %d bytes, the event takes %d, maxBytes is %d: have events handled, or raise maxBytes",
				pubsub.ErrTopicFull, p.topic, held, size, limit)
			continue
		}
		held += size
		nothing = false
		if p.entries[i].DedupKey != nil && i+1 < len(p.entries) {
			accepted[p.hashes[i]] = true
		}
	}
	return nothing
}

// refuseOthers reports whether an entry was refused, and if so refuses all others.
func (p *publish) refuseOthers() bool {
	if !slices.ContainsFunc(p.results, func(r pubsub.AppendResult) bool { return r.Err != nil }) {
		return false
	}
	for i := range p.results {
		if p.results[i].Err == nil {
			p.results[i] = pubsub.AppendResult{Err: pubsub.ErrOthersRefused}
		}
	}
	return true
}
