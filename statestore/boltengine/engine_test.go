package boltengine

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ctx   = context.Background()
	epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
)

// rig is a store over a real file, with a clock that stands still.
type rig struct {
	path   string
	clock  *clockwork.FakeClock
	db     *boltdb.DB
	engine statestore.Engine
	store  *statestore.Store
}

func newRig(t testing.TB) *rig {
	r := &rig{path: filepath.Join(t.TempDir(), "test.db"), clock: clockwork.NewFakeClockAt(epoch)}
	r.open(t)
	t.Cleanup(func() { r.close(t) })
	return r
}

func (r *rig) openEngine(t require.TestingT) {
	var err error
	r.db, err = boltdb.Open(ctx, r.path, boltdb.Options{DeferredDelay: -1})
	require.NoError(t, err)
	r.engine, err = New(r.db, "state")
	require.NoError(t, err)
}

func (r *rig) open(t require.TestingT) {
	r.openEngine(t)
	var err error
	// The background sweeper sleeps through the test: sweeps are called for by name.
	r.store, err = statestore.New(r.engine, statestore.Options{Clock: r.clock, CleanupInterval: 1000 * time.Hour})
	require.NoError(t, err)
}

func (r *rig) close(t require.TestingT) {
	require.NoError(t, r.store.Close(ctx))
	require.NoError(t, r.db.Close())
}

// count returns how many keys of each kind are on disk.
func (r *rig) count(t require.TestingT) map[byte]int {
	n := make(map[byte]int)
	require.NoError(t, r.db.View(func(tx *boltdb.Tx) error {
		return tx.Bucket([]byte("state/state")).ForEach(func(k, _ []byte) error {
			n[k[0]]++
			return nil
		})
	}))
	return n
}

// put writes raw bytes under a raw key.
func (r *rig) put(t require.TestingT, k, v []byte) {
	require.NoError(t, r.db.Update(ctx, func(tx *boltdb.Tx) error {
		return boltdb.Dirty(tx.Bucket([]byte("state/state")).Put(k, v))
	}))
}

func TestNewRefusesABucketWithoutAName(t *testing.T) {
	r := newRig(t)
	_, err := New(r.db, "")
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
}

func TestBucketsDoNotSeeEachOther(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("k", "here"))
	other, err := New(r.db, "other")
	require.NoError(t, err)
	items, err := other.Get(ctx, []string{"k"}, 100, epoch)
	require.NoError(t, err)
	require.False(t, items[0].Found)
	same, err := New(r.db, "state")
	require.NoError(t, err)
	items, err = same.Get(ctx, []string{"k"}, 100, epoch)
	require.NoError(t, err)
	require.Equal(t, "here", string(items[0].Value))
}

func TestLargestKeyWithTTLFits(t *testing.T) {
	r := newRig(t)
	key := string(make([]byte, statestore.MaxKeySize))
	w := enginetest.Set(key, "v")
	w.TTL = time.Second
	enginetest.Apply(t, r.store, w)
	require.True(t, enginetest.Get(t, r.store, key).Found)
	r.clock.Advance(time.Second)
	swept, _, err := r.engine.Sweep(ctx, r.clock.Now(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, swept)
	require.Empty(t, r.count(t))
}

func TestLargestValueComesBack(t *testing.T) {
	r := newRig(t)
	value := make([]byte, statestore.MaxValueSize)
	for i := range value {
		value[i] = byte(i * 7)
	}
	enginetest.Apply(t, r.store, statestore.Write{Op: statestore.OpSet, Key: "k", Value: value})
	require.Equal(t, value, enginetest.Get(t, r.store, "k").Value)
}

func TestValuesBelongToTheReader(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("k", "value"), enginetest.Set("large", string(make([]byte, 8192)))) // small buckets are copied by bbolt itself
	copy(enginetest.Get(t, r.store, "k").Value, "other")
	require.Equal(t, "value", string(enginetest.Get(t, r.store, "k").Value))
}

func TestAnIdempotencyKeyUsedAgainHasOneEnd(t *testing.T) {
	r := newRig(t)
	once := statestore.Transaction{Writes: []statestore.Write{enginetest.Set("k", "v")}, IdempotencyKey: "id", IdempotencyWindow: time.Second}
	require.NoError(t, r.store.Apply(ctx, once))
	r.clock.Advance(time.Second)
	require.NoError(t, r.store.Apply(ctx, once))
	require.Equal(t, map[byte]int{layout.KindValue: 1, layout.KindIdempotency: 1, layout.KindIdempotencyTime: 1}, r.count(t))
}

func TestDamagedValueIsReportedAndCanBeReplaced(t *testing.T) {
	r := newRig(t)
	k := valueKey("bad")
	good := string(encodeRecord(k, 7, 0, &statestore.Write{Value: []byte("value")}))
	for name, raw := range map[string]string{
		"no bytes":           "",
		"format 1, cut":      "\x01\xa1\x01",
		"format 0":           "\x00" + good[1:],
		"newer format":       "\x03" + good[1:],
		"cut":                good[:len(good)-1],
		"a flipped bit":      good[:len(good)-1] + "d",
		"another key's":      string(encodeRecord(valueKey("worse"), 7, 0, &statestore.Write{})),
		"no version":         string(encodeRecord(k, 0, 0, &statestore.Write{})),
		"end before the 70s": string(encodeRecord(k, 7, -1, &statestore.Write{})),
	} {
		t.Run(name, func(t *testing.T) {
			r.put(t, k, []byte(raw))
			_, err := r.store.Get(ctx, "bad")
			require.ErrorIs(t, err, statestore.ErrDamaged)
			require.ErrorContains(t, err, `value of key "bad"`)

			enginetest.Apply(t, r.store, enginetest.Set("good", "v"))
			items, err := r.store.GetMany(ctx, []string{"bad", "good"}, 1<<20)
			require.NoError(t, err)
			require.ErrorIs(t, items[0].Err, statestore.ErrDamaged)
			require.Equal(t, "v", string(items[1].Value))

			first := enginetest.Set("bad", "new")
			first.FirstWrite = true
			require.ErrorIs(t, r.store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{first}}), statestore.ErrDamaged)

			enginetest.Apply(t, r.store, enginetest.Set("bad", "new"))
			require.Equal(t, "new", string(enginetest.Get(t, r.store, "bad").Value))
			r.put(t, k, []byte(raw))
			enginetest.Apply(t, r.store, enginetest.Delete("bad"))
			require.False(t, enginetest.Get(t, r.store, "bad").Found)
		})
	}
}

func TestSweepPassesDamage(t *testing.T) {
	r := newRig(t)
	good := enginetest.Set("good", "v")
	good.TTL = 2 * time.Second
	enginetest.Apply(t, r.store, good)
	once := statestore.Transaction{Writes: []statestore.Write{enginetest.Set("once", "v")}, IdempotencyKey: "id", IdempotencyWindow: 2 * time.Second}
	require.NoError(t, r.store.Apply(ctx, once))

	r.put(t, valueKey("bad"), []byte{1, 0xff})
	r.put(t, layout.TimeKey(layout.KindExpiry, epoch.UnixNano(), "bad"), nil)
	r.put(t, []byte{layout.KindExpiry, 1, 2}, nil)
	require.NoError(t, r.db.Update(ctx, func(tx *boltdb.Tx) error {
		ns := tx.Bucket([]byte("state/state"))
		k, _ := ns.Cursor().Seek([]byte{layout.KindIdempotency})
		return boltdb.Dirty(ns.Put(append([]byte(nil), k...), []byte{1, 0xff}))
	}))
	require.ErrorIs(t, r.store.Apply(ctx, once), statestore.ErrDamaged)

	r.clock.Advance(2 * time.Second)
	swept, _, err := r.engine.Sweep(ctx, r.clock.Now(), 100)
	require.ErrorIs(t, err, statestore.ErrDamaged)
	require.ErrorContains(t, err, `value of key "bad"`)
	require.ErrorContains(t, err, "idempotency key with SHA-256")
	require.Equal(t, 4, swept)
	require.Equal(t, map[byte]int{layout.KindValue: 2}, r.count(t), "what is left: the damaged value and the key without an end")

	swept, _, err = r.engine.Sweep(ctx, r.clock.Now(), 100)
	require.NoError(t, err)
	require.Zero(t, swept)
	require.NoError(t, r.store.Apply(ctx, once))
}

func TestSweepGoesInTimeOrderAndSmallSteps(t *testing.T) {
	r := newRig(t)
	const n = 25
	var writes []statestore.Write
	for i := range n {
		w := enginetest.Set(string(rune('z'-i)), "v")
		w.TTL = time.Duration(i+1) * time.Second
		writes = append(writes, w)
	}
	enginetest.Apply(t, r.store, writes...)
	r.clock.Advance(20 * time.Second)
	total := 0
	for _, want := range []int{8, 8, 4, 0} {
		swept, more, err := r.engine.Sweep(ctx, r.clock.Now(), 8)
		require.NoError(t, err)
		require.Equal(t, want, swept)
		require.Equal(t, want == 8, more)
		total += swept
		for i := range n {
			require.Equal(t, i >= total, r.holds(t, valueKey(writes[i].Key)), "key %d after %d", i, total)
		}
	}
	require.Equal(t, map[byte]int{layout.KindValue: 5, layout.KindExpiry: 5}, r.count(t))
}

// A sweep of many commits goes on where the last one has ended. What comes before that, as after the clock was set back, is
// removed by the next one.
func TestASweepBeginsAnewOnceItIsThrough(t *testing.T) {
	r := newRig(t)
	set := func(key string, ttl time.Duration) {
		w := enginetest.Set(key, "v")
		w.TTL = ttl
		enginetest.Apply(t, r.store, w)
	}
	for i := range 20 {
		set(fmt.Sprint("key", i), time.Minute+time.Duration(i)*time.Second)
	}
	now := epoch.Add(time.Hour)
	swept, more, err := r.engine.Sweep(ctx, now, 8)
	require.NoError(t, err)
	require.True(t, more)
	require.Equal(t, 8, swept)
	set("early", time.Second)
	swept, more, err = r.engine.Sweep(ctx, now, 100)
	require.NoError(t, err)
	require.False(t, more)
	require.Equal(t, 12, swept)
	swept, _, err = r.engine.Sweep(ctx, now, 100)
	require.NoError(t, err)
	require.Equal(t, 1, swept)
	require.Empty(t, r.count(t))
}

// A commit that removes large values, each of which all indexes must look at, holds up whoever comes meanwhile.
func TestASweepIsBoundedInBytes(t *testing.T) {
	r := newRig(t)
	paths := []string{"a", "b", "c"}
	r.build(t, epoch.Add(time.Hour), paths...)
	const n, size = 10, 3 << 20
	for i := range n {
		w := enginetest.Set(fmt.Sprint("k", i), `{"a":`+fmt.Sprint(i)+`,"pad":"`+strings.Repeat("x", size)+`"}`)
		w.TTL = time.Second
		enginetest.Apply(t, r.store, w)
	}
	small := enginetest.Set("small", `{"a":"small"}`)
	small.TTL = time.Second
	enginetest.Apply(t, r.store, small)
	r.clock.Advance(time.Second)
	total := 0
	for more := true; more; {
		before := r.count(t)[layout.KindValue]
		var swept int
		var err error
		swept, more, err = r.engine.Sweep(ctx, r.clock.Now(), 32)
		require.NoError(t, err)
		require.Equal(t, before-swept, r.count(t)[layout.KindValue])
		require.LessOrEqual(t, swept, 2, "values of 3 MiB in one commit, that four look at")
		total += swept
	}
	require.Equal(t, n+1, total)
	require.Equal(t, map[byte]int{kindIndex: len(paths)}, r.count(t))
}

// holds reports whether a raw key is on disk.
func (r *rig) holds(t require.TestingT, k []byte) (found bool) {
	require.NoError(t, r.db.View(func(tx *boltdb.Tx) error {
		found = tx.Bucket([]byte("state/state")).Get(k) != nil
		return nil
	}))
	return found
}

func TestSweepSparesAKeyThatWasSetAgain(t *testing.T) {
	r := newRig(t)
	w := enginetest.Set("k", "old")
	w.TTL = time.Second
	enginetest.Apply(t, r.store, w)
	w = enginetest.Set("k", "new")
	w.TTL = time.Hour
	enginetest.Apply(t, r.store, w)
	// An entry that survived by accident must not do harm either.
	r.put(t, layout.TimeKey(layout.KindExpiry, epoch.Add(time.Second).UnixNano(), "k"), nil)

	r.clock.Advance(time.Minute)
	swept, _, err := r.engine.Sweep(ctx, r.clock.Now(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, swept)
	require.Equal(t, "new", string(enginetest.Get(t, r.store, "k").Value))
	require.Equal(t, map[byte]int{layout.KindValue: 1, layout.KindExpiry: 1}, r.count(t))

	enginetest.Apply(t, r.store, enginetest.Set("k", "for ever"))
	require.Equal(t, map[byte]int{layout.KindValue: 1}, r.count(t))
}

func TestAFailedCallSpendsNoCommit(t *testing.T) {
	r := newRig(t)
	w := enginetest.Delete("k")
	w.ETag = "7"
	before := r.commits()
	require.ErrorIs(t, r.store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{w}}), statestore.ErrETagMismatch)
	_, _, err := r.engine.Sweep(ctx, r.clock.Now(), 10)
	require.NoError(t, err)
	require.Equal(t, before, r.commits())
}

func (r *rig) commits() uint64 { return r.db.Stats().Commits }
