package boltengine

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The model is what the engine is asked to keep, without the engine: where each event stands for each group.
type accounts struct {
	t      *rapid.T
	db     *boltdb.DB
	engine *Engine
	now    time.Time
	topics map[string]*topicAccount
}

type topicAccount struct {
	maxAge  time.Duration
	last    uint64
	log     []uint64 // what the topic still holds, in order
	since   map[uint64]time.Time
	delayed []time.Time // when each is due, in order
	groups  map[string]*groupAccount
}

// groupAccount has the sequences that the group is owed, by where they wait.
type groupAccount struct {
	waiting, retrying map[uint64]bool
	redriven, dead    []uint64
	// again are those that were redriven once, and never grow too old.
	again map[uint64]bool
}

func newAccounts(t *rapid.T, db *boltdb.DB) *accounts {
	a := &accounts{t: t, db: db, now: noon, topics: map[string]*topicAccount{}}
	a.reopen()
	return a
}

func (a *accounts) reopen() {
	var err error
	a.engine, err = New(context.Background(), a.db, "pubsub")
	require.NoError(a.t, err)
}

func (a *accounts) drawTopic() (string, *topicAccount) {
	name := rapid.SampledFrom([]string{"s", "t"}).Draw(a.t, "topic")
	return name, a.topics[name]
}

func (a *accounts) ensure(name string) *topicAccount {
	if a.topics[name] == nil {
		a.topics[name] = &topicAccount{since: map[uint64]time.Time{}, groups: map[string]*groupAccount{}}
	}
	return a.topics[name]
}

func (t *topicAccount) append(since time.Time) {
	t.last++
	t.log = append(t.log, t.last)
	t.since[t.last] = since
	for _, g := range t.groups {
		g.waiting[t.last] = true
	}
}

// done is up to where the group has nothing to wait for.
func (g *groupAccount) done(last uint64) uint64 {
	if len(g.waiting) == 0 {
		return last
	}
	return slices.Min(slices.Collect(maps.Keys(g.waiting))) - 1
}

// trim drops what no group waits for.
func (t *topicAccount) trim() {
	for len(t.groups) > 0 && len(t.log) > 0 {
		for _, g := range t.groups {
			if g.waiting[t.log[0]] {
				return
			}
		}
		t.log = t.log[1:]
	}
}

func (a *accounts) publish() {
	name, _ := a.drawTopic()
	opts := pubsub.AppendOptions{TopicLimits: pubsub.TopicLimits{
		MaxAge:   rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(a.t, "maxAge"),
		MaxBytes: rapid.SampledFrom([]int64{0, 0, 500, 2000}).Draw(a.t, "maxBytes"),
	}}
	entry := pubsub.Entry{Event: pubsub.Event{Data: make([]byte, rapid.IntRange(0, 300).Draw(a.t, "size")), PublishTime: a.now}}
	if wait := rapid.SampledFrom([]time.Duration{0, 0, 30 * time.Minute}).Draw(a.t, "deliverAfter"); wait > 0 {
		entry.Event.DeliverAt = a.now.Add(wait)
	}
	size, err := encodeEvent(&entry.Event)
	require.NoError(a.t, err)
	held := a.stats(name).Bytes
	results, err := a.engine.Append(context.Background(), name, []pubsub.Entry{entry}, opts, a.now)
	require.NoError(a.t, err)
	if opts.MaxBytes > 0 && held+int64(len(size)) > opts.MaxBytes {
		require.ErrorIs(a.t, results[0].Err, pubsub.ErrTopicFull)
		return
	}
	require.NoError(a.t, results[0].Err)
	t := a.ensure(name)
	t.maxAge = opts.MaxAge
	if at := entry.Event.DeliverAt; !at.IsZero() {
		t.delayed = append(t.delayed, at)
		return
	}
	t.append(a.now)
	require.Equal(a.t, t.last, results[0].Sequence)
}

func (a *accounts) openGroup() {
	name, _ := a.drawTopic()
	group := rapid.SampledFrom([]string{"g", "h"}).Draw(a.t, "group")
	policy := rapid.SampledFrom([]pubsub.DeliverPolicy{pubsub.DeliverAll, pubsub.DeliverNew}).Draw(a.t, "policy")
	_, err := a.engine.OpenGroup(context.Background(), name, group, policy, pubsub.NameLimits{})
	require.NoError(a.t, err)
	t := a.ensure(name)
	if t.groups[group] != nil {
		return
	}
	g := &groupAccount{waiting: map[uint64]bool{}, retrying: map[uint64]bool{}, again: map[uint64]bool{}}
	if policy == pubsub.DeliverAll {
		for _, sequence := range t.log {
			g.waiting[sequence] = true
		}
	}
	t.groups[group] = g
}

func (a *accounts) removeGroup() {
	name, t := a.drawTopic()
	if t == nil {
		return
	}
	group := rapid.SampledFrom([]string{"g", "h"}).Draw(a.t, "group")
	err := a.engine.RemoveGroup(context.Background(), name, group)
	if t.groups[group] == nil {
		require.ErrorIs(a.t, err, pubsub.ErrNotFound)
		return
	}
	require.NoError(a.t, err)
	delete(t.groups, group)
	t.trim()
}

// drawGroup returns a nil account if there is no group.
func (a *accounts) drawGroup() (topic, group string, t *topicAccount, g *groupAccount) {
	topic, t = a.drawTopic()
	if t == nil || len(t.groups) == 0 {
		return topic, "", t, nil
	}
	group = rapid.SampledFrom(slices.Sorted(maps.Keys(t.groups))).Draw(a.t, "group")
	return topic, group, t, t.groups[group]
}

// settle ends some deliveries of what the engine gives out, each in a way of its own.
func (a *accounts) settle() {
	topic, group, t, g := a.drawGroup()
	if g == nil {
		return
	}
	var settlements []pubsub.Settlement
	end := func(sequence uint64, retry *pubsub.RetryKey, history pubsub.History) {
		outcome := rapid.SampledFrom([]pubsub.Outcome{pubsub.Acked, pubsub.Retried, pubsub.Dead, pubsub.Expired}).Draw(a.t, "outcome")
		history.Deliveries++
		settlements = append(settlements, pubsub.Settlement{
			Outcome: outcome, Sequence: sequence, Retry: retry, History: history, At: a.now, Reason: pubsub.ReasonMaxDeliver,
			Due: a.now.Add(time.Duration(rapid.IntRange(0, 3600).Draw(a.t, "wait")) * time.Second),
		})
		switch outcome {
		case pubsub.Retried:
			g.retrying[sequence] = true
		case pubsub.Dead:
			g.dead = append(g.dead, sequence)
		}
	}
	done := g.done(t.last)
	some := rapid.IntRange(1, 2)
	for _, e := range a.readLog(topic, group) {
		if some.Draw(a.t, "of the log") == 1 {
			delete(g.waiting, e.Sequence)
			end(e.Sequence, nil, pubsub.History{})
		}
	}
	for _, redriven := range []bool{false, true} {
		for _, r := range a.readRetries(topic, group, redriven) {
			if some.Draw(a.t, "of the retries") != 1 {
				continue
			}
			if redriven {
				g.redriven = slices.DeleteFunc(g.redriven, func(s uint64) bool { return s == r.Key.Sequence })
			} else {
				delete(g.retrying, r.Key.Sequence)
			}
			end(r.Key.Sequence, &r.Key, r.History)
		}
	}
	gone, err := a.engine.Settle(context.Background(), topic, group, settlements)
	require.NoError(a.t, err)
	require.Empty(a.t, gone)
	if g.done(t.last) != done {
		t.trim()
	}
}

func (a *accounts) readLog(topic, group string) []pubsub.Event {
	events, _, err := a.engine.ReadLog(context.Background(), topic, group, 0, math.MaxInt, math.MaxInt)
	require.NoError(a.t, err)
	return events
}

func (a *accounts) readRetries(topic, group string, redriven bool) (read []pubsub.Retry) {
	none := func(pubsub.RetryKey) bool { return false }
	var err error
	if redriven {
		read, err = a.engine.ReadRedriven(context.Background(), topic, group, none, math.MaxInt, math.MaxInt)
	} else {
		read, _, err = a.engine.ReadRetries(context.Background(), topic, group, a.now.Add(1000*time.Hour), none, math.MaxInt, math.MaxInt)
	}
	require.NoError(a.t, err)
	return read
}

func (a *accounts) deadLetters() []pubsub.DeadLetter {
	dead, _, err := a.engine.DeadLetters(context.Background(), pubsub.DeadLetterFilter{Limit: math.MaxInt}, 0)
	require.NoError(a.t, err)
	return dead
}

func (a *accounts) redriveOrPurge() {
	dead := a.deadLetters()
	if len(dead) == 0 {
		return
	}
	d := rapid.SampledFrom(dead).Draw(a.t, "dead letter")
	g := a.topics[d.Event.Topic].groups[d.Group]
	at := slices.Index(g.dead, d.Event.Sequence)
	require.GreaterOrEqual(a.t, at, 0)
	g.dead = slices.Delete(g.dead, at, at+1)
	if rapid.Bool().Draw(a.t, "purge") {
		n, err := a.engine.Purge(context.Background(), []uint64{d.ID, d.ID})
		require.NoError(a.t, err)
		require.Equal(a.t, 1, n)
		return
	}
	moved, err := a.engine.Redrive(context.Background(), []uint64{d.ID, d.ID})
	require.NoError(a.t, err)
	require.Len(a.t, moved, 1)
	g.redriven = append(g.redriven, d.Event.Sequence)
	g.again[d.Event.Sequence] = true
}

func (a *accounts) promote() {
	limit := rapid.IntRange(1, 5).Draw(a.t, "limit")
	for {
		grown, next, err := a.engine.Promote(context.Background(), a.now, limit)
		require.NoError(a.t, err)
		if len(grown) == 0 {
			require.True(a.t, next.IsZero() || next.After(a.now))
			break
		}
	}
	for _, t := range a.topics {
		for len(t.delayed) > 0 && !t.delayed[0].After(a.now) {
			t.append(t.delayed[0])
			t.delayed = t.delayed[1:]
		}
	}
}

// sweep sweeps until it finds nothing more.
func (a *accounts) sweep() {
	limit := rapid.IntRange(1, 5).Draw(a.t, "limit")
	always := func(string, string) bool { return true }
	for before := -1; before != len(a.deadLetters()); {
		before = len(a.deadLetters())
		// Where nothing more is to do at once, there may still be retries that were not looked through.
		for n, more := 0, true; more || n < 10; n++ {
			var err error
			_, more, err = a.engine.BuryAged(context.Background(), a.now, limit, always)
			require.NoError(a.t, err)
		}
	}
	for _, t := range a.topics {
		for len(t.log) > 0 && t.tooOld(t.log[0], a.now) {
			for _, g := range t.groups {
				if g.waiting[t.log[0]] {
					delete(g.waiting, t.log[0])
					g.dead = append(g.dead, t.log[0])
				}
			}
			t.log = t.log[1:]
			t.trim()
		}
		t.trim()
		for _, g := range t.groups {
			for sequence := range g.retrying {
				if t.tooOld(sequence, a.now) && !g.again[sequence] {
					delete(g.retrying, sequence)
					g.dead = append(g.dead, sequence)
				}
			}
		}
	}
}

func (t *topicAccount) tooOld(sequence uint64, now time.Time) bool {
	return t.maxAge > 0 && !now.Before(t.since[sequence].Add(t.maxAge))
}

func (a *accounts) stats(topic string) pubsub.TopicStats {
	all, err := a.engine.Stats(context.Background(), "", "", 0)
	require.NoError(a.t, err)
	for _, s := range all {
		if s.Topic == topic {
			return s
		}
	}
	return pubsub.TopicStats{}
}

// check compares what the engine says and what the file holds with the accounts.
func (a *accounts) check() {
	for name, t := range a.topics {
		s := a.stats(name)
		require.Equal(a.t, a.bytesOnDisk(name), s.Bytes, "bytes of %s", name)
		require.EqualValues(a.t, len(t.log), s.Stored, "stored of %s", name)
		require.EqualValues(a.t, len(t.delayed), s.Delayed, "delayed of %s", name)
		require.Equal(a.t, t.last, s.LastSequence)
		require.Len(a.t, s.Groups, len(t.groups))
		for _, got := range s.Groups {
			g := t.groups[got.Group]
			require.EqualValues(a.t, len(g.waiting)+len(g.redriven), got.Waiting, "waiting of %s for %s", name, got.Group)
			require.EqualValues(a.t, len(g.retrying), got.Retrying, "retrying of %s for %s", name, got.Group)
			require.EqualValues(a.t, len(g.dead), got.Dead, "dead of %s for %s", name, got.Group)
			var waiting, retrying, redriven []uint64
			for _, e := range a.readLog(name, got.Group) {
				waiting = append(waiting, e.Sequence)
			}
			for _, r := range a.readRetries(name, got.Group, false) {
				retrying = append(retrying, r.Key.Sequence)
			}
			for _, r := range a.readRetries(name, got.Group, true) {
				redriven = append(redriven, r.Key.Sequence)
			}
			require.True(a.t, slices.Equal(slices.Sorted(maps.Keys(g.waiting)), waiting), "%s of %s, in order: %v", got.Group, name, waiting)
			require.ElementsMatch(a.t, slices.Collect(maps.Keys(g.retrying)), retrying)
			require.True(a.t, slices.Equal(g.redriven, redriven), "in the order they were redriven: %v, not %v", g.redriven, redriven)
		}
	}
}

// bytesOnDisk adds up what the topic's events take.
func (a *accounts) bytesOnDisk(topic string) (size int64) {
	require.NoError(a.t, a.db.View(func(tx *boltdb.Tx) error {
		b := a.engine.in(tx)
		t, _, err := b.topic(topic)
		require.NoError(a.t, err)
		groups, err := b.groupsOf(t.ID)
		require.NoError(a.t, err)
		add := func(bucket *boltdb.Bucket, is func(k []byte) bool) {
			require.NoError(a.t, bucket.ForEach(func(k, v []byte) error {
				if is(k) {
					size += int64(len(v))
				}
				return nil
			}))
		}
		add(b.log(), func(k []byte) bool { return binary.BigEndian.Uint32(k) == t.ID })
		add(b.delayed(), func(k []byte) bool { _, id, err := parseDelayedKey(k); return err == nil && id == t.ID })
		add(b.retry(), func(k []byte) bool {
			id := binary.BigEndian.Uint32(k)
			return slices.ContainsFunc(groups, func(g namedGroup) bool { return g.ID == id })
		})
		return nil
	}))
	return size
}

// Whatever happens, the counts and bytes that are kept are those of what is there, and every event stands where it should.
func TestAccountingMatchesAModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n, ".db"))
		db, err := boltdb.Open(context.Background(), path, boltdb.Options{DeferredDelay: -1})
		require.NoError(rt, err)
		defer func() {
			require.NoError(rt, db.Close())
			require.NoError(rt, os.Remove(path))
		}()
		a := newAccounts(rt, db)
		step := func() {
			a.now = a.now.Add(time.Duration(rapid.IntRange(1, 3600).Draw(rt, "seconds")) * time.Second)
		}
		actions := []func(){a.publish, a.publish, a.publish, a.openGroup, a.removeGroup, a.settle, a.settle, a.settle, a.redriveOrPurge, a.promote, a.sweep, step, a.reopen}
		for range rapid.IntRange(20, 60).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")]()
			a.check()
		}
	})
}
