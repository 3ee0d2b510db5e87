package boltengine

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t testing.TB) (*Engine, *boltdb.DB) {
	t.Helper()
	db, err := boltdb.Open(context.Background(), filepath.Join(t.TempDir(), "test.db"), boltdb.Options{DeferredDelay: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	e, err := New(context.Background(), db, "pubsub")
	require.NoError(t, err)
	return e, db
}

func entries(n int) []pubsub.Entry {
	list := make([]pubsub.Entry, n)
	for i := range list {
		list[i] = pubsub.Entry{Event: pubsub.Event{Data: []byte{byte(i)}, PublishTime: noon}}
	}
	return list
}

func appendAll(t *testing.T, e *Engine, topic string, list []pubsub.Entry) {
	t.Helper()
	results, err := e.Append(t.Context(), topic, list, pubsub.AppendOptions{}, noon)
	require.NoError(t, err)
	for _, r := range results {
		require.NoError(t, r.Err)
	}
}

func acks(sequences ...uint64) []pubsub.Settlement {
	list := make([]pubsub.Settlement, len(sequences))
	for i, s := range sequences {
		list[i] = pubsub.Settlement{Outcome: pubsub.Acked, Sequence: s}
	}
	return list
}

func settle(t *testing.T, e *Engine, group string, settlements []pubsub.Settlement) {
	t.Helper()
	gone, err := e.Settle(t.Context(), "t", group, settlements)
	require.NoError(t, err)
	require.Empty(t, gone)
}

func unlocked(string, string) bool { return false }

// counts returns how many entries each bucket holds.
func counts(t *testing.T, e *Engine, db *boltdb.DB) map[string]int {
	t.Helper()
	n := map[string]int{}
	require.NoError(t, db.View(func(tx *boltdb.Tx) error {
		for _, name := range allBuckets {
			require.NoError(t, e.bucket.In(tx).Bucket(name).ForEach(func(_, _ []byte) error { n[string(name)]++; return nil }))
		}
		return nil
	}))
	return n
}

func TestSettledEventsLeaveTheFileWhenEveryGroupIsDone(t *testing.T) {
	e, db := open(t)
	for _, group := range []string{"a", "b"} {
		_, err := e.OpenGroup(t.Context(), "t", group, pubsub.DeliverAll, pubsub.NameLimits{})
		require.NoError(t, err)
	}
	appendAll(t, e, "t", entries(4))
	settle(t, e, "a", acks(1, 2, 4))
	require.Equal(t, 4, counts(t, e, db)["log"])
	require.Equal(t, 1, counts(t, e, db)["done"], "4 is settled above a gap")
	settle(t, e, "b", acks(2, 1))
	require.Equal(t, 2, counts(t, e, db)["log"])
	settle(t, e, "a", acks(3))
	require.Equal(t, 0, counts(t, e, db)["done"], "the gap is closed")
	settle(t, e, "b", acks(3, 4))
	require.Equal(t, 0, counts(t, e, db)["log"])
	stats, err := e.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Zero(t, stats[0].Bytes)
	require.EqualValues(t, 4, stats[0].LastSequence)
}

func TestATransactionThatWasRolledBackLeavesNothingInMemory(t *testing.T) {
	e, db := open(t)
	started, gate := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	run := func(fn func()) { wg.Add(1); go func() { defer wg.Done(); fn() }() }
	run(func() {
		_ = db.Update(context.Background(), func(*boltdb.Tx) error { close(started); <-gate; return nil })
	})
	<-started
	// The writer takes these up in one transaction, in whichever order; the last one spoils it at first.
	joined := make(chan struct{}, 2)
	run(func() {
		joined <- struct{}{}
		entry := pubsub.Entry{Event: pubsub.Event{Data: []byte("x"), PublishTime: noon}, DedupKey: []byte("id"), DedupWindow: time.Hour}
		results, err := e.Append(context.Background(), "t", []pubsub.Entry{entry}, pubsub.AppendOptions{}, noon)
		require.NoError(t, err)
		require.False(t, results[0].Duplicate, "the first run was rolled back")
		require.EqualValues(t, 1, results[0].Sequence, "and its sequence with it")
	})
	run(func() {
		joined <- struct{}{}
		ran := false
		_ = db.UpdateDeferred(context.Background(), func(*boltdb.Tx) error {
			if ran {
				return nil
			}
			ran = true
			panic("spoils the transaction")
		})
	})
	<-joined
	<-joined
	close(gate)
	wg.Wait()
	require.Equal(t, 1, counts(t, e, db)["log"])
	require.Equal(t, 1, counts(t, e, db)["ids"])
}

func TestSweepTakesBoundedSteps(t *testing.T) {
	e, db := open(t)
	list := entries(10)
	for i := range list {
		list[i].DedupKey, list[i].DedupWindow = []byte{byte(i)}, time.Minute
		// Ids of one commit are swept together.
		_, err := e.Append(t.Context(), "t", list[i:i+1], pubsub.AppendOptions{TopicLimits: pubsub.TopicLimits{MaxAge: time.Hour}}, noon)
		require.NoError(t, err)
	}
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)

	var all []pubsub.AgedEvent
	for _, step := range []struct {
		bucket string
		ended  time.Time
		take   func(now time.Time) (bool, error)
	}{
		{"ids", noon.Add(time.Minute), func(now time.Time) (bool, error) { return e.Sweep(t.Context(), now, 4) }},
		{"log", noon.Add(time.Hour), func(now time.Time) (bool, error) {
			buried, more, err := e.BuryAged(t.Context(), now, 4, unlocked)
			all = append(all, buried...)
			return more, err
		}},
	} {
		more, err := step.take(step.ended.Add(-1))
		require.NoError(t, err)
		require.False(t, more)
		require.Equal(t, 10, counts(t, e, db)[step.bucket])
		for _, left := range []int{6, 2, 0} {
			more, err := step.take(step.ended)
			require.NoError(t, err)
			require.Equal(t, left, counts(t, e, db)[step.bucket])
			require.Equal(t, left > 0, more)
		}
	}
	require.Equal(t, 10, counts(t, e, db)["dead"], "the group was owed them")
	require.Equal(t, slices.Repeat([]pubsub.AgedEvent{{Topic: "t", Group: "g"}}, 10), all)
}

func TestReadLogIsBoundedByCountAndBytes(t *testing.T) {
	e, _ := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	list := entries(5)
	for i := range list {
		list[i].Event.Data = bytes.Repeat([]byte("x"), 1000)
	}
	appendAll(t, e, "t", list)
	for _, c := range []struct{ limit, maxBytes, want int }{{3, 1 << 20, 3}, {5, 2500, 2}, {5, 1, 1}} {
		events, _, err := e.ReadLog(t.Context(), "t", "g", 0, c.limit, c.maxBytes)
		require.NoError(t, err)
		require.Len(t, events, c.want)
	}
}

func TestAnEventIDThatIsNotUTF8IsReadBack(t *testing.T) {
	e, _ := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	list := entries(1)
	list[0].Event.ID = "a\xffb"
	appendAll(t, e, "t", list)
	events, _, err := e.ReadLog(t.Context(), "t", "g", 0, 1, 1<<20)
	require.NoError(t, err)
	require.Equal(t, "a\xffb", events[0].ID)
}

// What nobody consumes is not kept for ever because it cannot be read, and nothing behind it is.
func TestTheSweepBuriesWhatCannotBeRead(t *testing.T) {
	e, db := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	opts := pubsub.AppendOptions{TopicLimits: pubsub.TopicLimits{MaxAge: time.Hour}}
	_, err = e.Append(t.Context(), "t", entries(4), opts, noon)
	require.NoError(t, err)
	settle(t, e, "g", []pubsub.Settlement{{Outcome: pubsub.Retried, Sequence: 1, Due: noon, History: pubsub.History{Deliveries: 1}}})
	for _, bucket := range []string{"log", "retry"} {
		require.NoError(t, db.Update(t.Context(), func(tx *boltdb.Tx) error {
			b := e.bucket.In(tx).Bucket([]byte(bucket))
			k, v := b.Cursor().First()
			return boltdb.Dirty(b.Put(k, append([]byte{99}, v[1:]...)))
		}))
	}
	always := func(string, string) bool { return true }
	buried, _, err := e.BuryAged(t.Context(), noon, 10, always)
	require.NoError(t, err)
	require.Equal(t, 1, counts(t, e, db)["dead"], "the retry")
	require.Equal(t, []pubsub.AgedEvent{{Topic: "t", Group: "g"}}, buried)
	_, _, err = e.BuryAged(t.Context(), noon.Add(time.Hour), 10, always)
	require.NoError(t, err)
	require.Equal(t, 4, counts(t, e, db)["dead"])
	dead, _, err := e.DeadLetters(t.Context(), pubsub.DeadLetterFilter{Limit: 10}, 0)
	require.NoError(t, err)
	for i, want := range []pubsub.Reason{pubsub.ReasonUnreadable, pubsub.ReasonUnreadable, pubsub.ReasonMaxAge, pubsub.ReasonMaxAge} {
		require.Equal(t, want, dead[i].Reason, "dead letter %d", i)
	}
}

// Nor does it if there are more of them than one step takes.
func TestTheSweepGetsPastManyEventsThatCannotBeRead(t *testing.T) {
	e, db := open(t)
	opts := pubsub.AppendOptions{TopicLimits: pubsub.TopicLimits{MaxAge: time.Hour}}
	_, err := e.Append(t.Context(), "t", entries(10), opts, noon)
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), func(tx *boltdb.Tx) error {
		b := e.in(tx)
		for sequence := uint64(1); sequence < 10; sequence++ {
			if err := b.log().Put(sequenceKey(1, sequence), []byte{99}); err != nil {
				return boltdb.Dirty(err)
			}
		}
		return nil
	}))
	for range 20 {
		_, _, err := e.BuryAged(t.Context(), noon.Add(time.Hour), 2, unlocked)
		require.NoError(t, err)
	}
	require.Zero(t, counts(t, e, db)["log"])
}

// A trace looks among the newest dead letters, and for none where there can be none.
func TestATraceFindsTheNewestDeadLetters(t *testing.T) {
	e, _ := open(t)
	for _, group := range []string{"a", "healthy"} {
		_, err := e.OpenGroup(t.Context(), "t", group, pubsub.DeliverAll, pubsub.NameLimits{})
		require.NoError(t, err)
	}
	const many, scan = 9, 3
	appendAll(t, e, "t", entries(many))
	for sequence := range uint64(many) {
		settle(t, e, "a", []pubsub.Settlement{{Sequence: sequence + 1, Outcome: pubsub.Dead, Reason: pubsub.ReasonMaxDeliver, At: noon}})
		settle(t, e, "healthy", acks(sequence+1))
	}
	state := func(sequence uint64) []pubsub.EventState {
		trace, err := e.Trace(t.Context(), "t", sequence, scan)
		require.NoError(t, err)
		require.Len(t, trace.Groups, 2)
		return []pubsub.EventState{trace.Groups[0].State, trace.Groups[1].State}
	}
	require.Equal(t, []pubsub.EventState{pubsub.EventDead, pubsub.EventHandled}, state(many))
	require.Equal(t, []pubsub.EventState{pubsub.EventDead, pubsub.EventHandled}, state(many-scan+1))
	require.Equal(t, []pubsub.EventState{pubsub.EventUnknown, pubsub.EventHandled}, state(many-scan))
	_, err := e.Purge(t.Context(), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9})
	require.NoError(t, err)
	require.Equal(t, []pubsub.EventState{pubsub.EventHandled, pubsub.EventHandled}, state(1))
}

// A dozen of the largest events that fail at once take more than an area of the log.
func TestManyLargeEventsAreSettledAtOnce(t *testing.T) {
	e, _ := open(t)
	_, err := e.OpenGroup(t.Context(), "t", "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	var settlements []pubsub.Settlement
	for i := range 12 {
		list := entries(1)
		list[0].Event.Data = bytes.Repeat([]byte("x"), 4<<20-100<<10)
		appendAll(t, e, "t", list)
		settlements = append(settlements, pubsub.Settlement{Outcome: pubsub.Dead, Sequence: uint64(i + 1), Reason: pubsub.ReasonMaxAge, At: noon})
	}
	_, err = e.Settle(t.Context(), "t", "g", settlements)
	require.NoError(t, err)
}

func TestWhatChangesNothingIsNotSynced(t *testing.T) {
	e, db := open(t)
	list := entries(1)
	list[0].DedupKey, list[0].DedupWindow = []byte("id"), time.Hour
	calls := func() {
		appendAll(t, e, "t", list)
		for _, topic := range []string{"t", "other.*"} {
			_, err := e.OpenGroup(t.Context(), topic, "g", pubsub.DeliverAll, pubsub.NameLimits{})
			require.NoError(t, err)
		}
		settle(t, e, "unknown", acks(1))
		_, err := e.Redrive(t.Context(), []uint64{1})
		require.NoError(t, err)
		_, err = e.Purge(t.Context(), []uint64{1})
		require.NoError(t, err)
		require.ErrorIs(t, e.RemoveGroup(t.Context(), "t", "unknown"), pubsub.ErrNotFound)
		_, _, err = e.Promote(t.Context(), noon, 10)
		require.NoError(t, err)
		_, err = e.Sweep(t.Context(), noon, 10)
		require.NoError(t, err)
		_, _, err = e.BuryAged(t.Context(), noon, 10, unlocked)
		require.NoError(t, err)
	}
	calls()
	before := db.Stats().Commits
	require.NotZero(t, before)
	calls()
	require.Equal(t, before, db.Stats().Commits)
}
