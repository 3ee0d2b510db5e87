package boltengine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// requireIndexesRight compares each complete index with what it must hold, and sees that no entry is left of indexes
// that are gone.
func requireIndexesRight(t require.TestingT, r *rig) {
	require.NoError(t, r.db.View(func(tx *boltdb.Tx) error {
		ns := tx.Bucket([]byte("state/state"))
		known := map[string]bool{}
		for _, x := range (bucket{Bucket: ns}).indexes(func(*index) bool { return true }) {
			known[string(layout.IndexEntryPrefix(x.id))] = true
			if x.State != layout.IndexComplete {
				continue
			}
			want, got := map[string]string{}, map[string]string{}
			c := ns.Cursor()
			for k, v := c.Seek([]byte{layout.KindValue}); len(k) > 0 && k[0] == layout.KindValue; k, v = c.Next() {
				rec, err := decodeRecord(k, v)
				require.NoError(t, err)
				if !statestore.IsJSON(rec.Value) {
					continue
				}
				for _, indexKey := range statestore.IndexKeys(&x.field, rec.Value) {
					ek, ev := layout.IndexEntry(x.id, indexKey, k[1:])
					want[string(ek)] = string(ev)
				}
			}
			prefix := string(layout.IndexEntryPrefix(x.id))
			for k, v := c.Seek([]byte(prefix)); strings.HasPrefix(string(k), prefix); k, v = c.Next() {
				got[string(k)] = string(v)
			}
			require.Equal(t, want, got, "index on %s", x.Path)
		}
		c := ns.Cursor()
		for k, _ := c.Seek([]byte{layout.KindIndexEntry}); len(k) > 0 && k[0] == layout.KindIndexEntry; k, _ = c.Next() {
			require.True(t, known[string(k[:1+layout.IndexIDSize])], "an entry without an index")
		}
		return nil
	}))
}

// build makes indexes complete.
func (r *rig) build(t require.TestingT, until time.Time, paths ...string) {
	for {
		step, err := r.engine.BuildIndexes(ctx, paths, until, 100)
		require.NoError(t, err)
		if step.Path == "" {
			return
		}
	}
}

// indexes returns the complete ones.
func (r *rig) indexes(t require.TestingT) (complete map[string]bool) {
	require.NoError(t, r.engine.View(ctx, r.clock.Now(), func(s statestore.Snapshot) error {
		complete = s.Indexes()
		return nil
	}))
	return complete
}

func (r *rig) query(t require.TestingT, q statestore.Query) []string {
	page, err := r.store.Query(ctx, q)
	require.NoError(t, err)
	return enginetest.ItemKeys(page.Items)
}

func equal(path string, value any) statestore.Filter {
	return &statestore.Comparison{Op: statestore.OpEqual, Path: path, Value: value}
}

func TestAnIndexIsBuiltInSmallStepsThatOutlastARestart(t *testing.T) {
	r := newRig(t)
	for i := range 25 {
		enginetest.Apply(t, r.store, enginetest.Set(fmt.Sprintf("k%02d", i), fmt.Sprintf(`{"n":%d}`, i%5)))
	}
	until := epoch.Add(time.Hour)
	var seen []statestore.IndexProgress
	for {
		step, err := r.engine.BuildIndexes(ctx, []string{"n"}, until, 10)
		require.NoError(t, err)
		if step.Path == "" {
			break
		}
		seen = append(seen, step)
		require.Equal(t, step.Complete, len(r.indexes(t)) == 1, "an index that is not complete is not used")
		require.LessOrEqual(t, r.count(t)[layout.KindIndexEntry], 10*len(seen))
		r.close(t)
		r.open(t)
	}
	require.Equal(t, []statestore.IndexProgress{{Path: "n", Keys: 10}, {Path: "n", Keys: 20}, {Path: "n", Keys: 25, Complete: true}}, seen)
	require.Equal(t, map[string]bool{"n": false}, r.indexes(t))
	requireIndexesRight(t, r)
}

// An index that answers wrongly shows: that is how the tests know that it is asked.
func TestAnIndexIsUsed(t *testing.T) {
	for name, filter := range map[string]statestore.Filter{
		"equality":       equal("n", 1.0),
		"membership":     &statestore.In{Path: "n", Values: []any{1.0, "x"}},
		"range":          &statestore.Comparison{Op: statestore.OpLess, Path: "n", Value: 2.0},
		"within and":     statestore.And{equal("other", nil), statestore.And{equal("n", 1.0), equal("other", nil)}},
		"range of two":   statestore.And{&statestore.Comparison{Op: statestore.OpGreater, Path: "n", Value: 0.0}, &statestore.Comparison{Op: statestore.OpLess, Path: "n", Value: 2.0}},
		"beside another": statestore.And{statestore.Or{equal("n", 1.0), equal("n", 2.0)}, equal("n", 1.0)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`), enginetest.Set("b", `{"n":1}`), enginetest.Set("c", `{"n":3}`))
			r.build(t, epoch.Add(time.Hour), "n")
			q := statestore.Query{Filter: filter}
			require.Equal(t, []string{"a", "b"}, r.query(t, q))
			r.forget(t, "a")
			require.Equal(t, []string{"b"}, r.query(t, q))
			require.Equal(t, []string{"a", "b"}, r.query(t, statestore.Query{Filter: statestore.Or{equal("n", 1.0), equal("n", "x")}}))
		})
	}
}

func TestAnIndexAnswersAsAScanDoes(t *testing.T) {
	from, below := &statestore.Comparison{Op: statestore.OpGreaterOrEqual, Path: "n", Value: 10.0}, &statestore.Comparison{Op: statestore.OpLess, Path: "n", Value: 20.0}
	for name, c := range map[string]struct {
		docs map[string]string
		q    statestore.Query
		want []string
	}{
		"two bounds may hold for two values of an array": {
			map[string]string{"a": `{"n":[5,25]}`, "b": `{"n":15}`, "c": `{"n":[1,2]}`}, statestore.Query{Filter: statestore.And{from, below}}, []string{"a", "b"},
		},
		"a value counts once": {
			map[string]string{"a": `{"n":[11,12,13]}`}, statestore.Query{Filter: from}, []string{"a"},
		},
		"the order of the index is not that of the keys": {
			map[string]string{"b": `{"n":11}`, "c": `{"n":12}`, "d": `{"n":13}`, "a": `{"n":14}`}, statestore.Query{Filter: from, Limit: 1}, []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for key, doc := range c.docs {
				enginetest.Apply(t, r.store, enginetest.Set(key, doc))
			}
			require.Equal(t, c.want, r.query(t, c.q))
			r.build(t, epoch.Add(time.Hour), "n")
			require.Equal(t, c.want, r.query(t, c.q))
		})
	}
}

// forget takes a key's entries out of all indexes.
func (r *rig) forget(t require.TestingT, key string) {
	require.NoError(t, r.db.Update(ctx, func(tx *boltdb.Tx) error {
		ns := tx.Bucket([]byte("state/state"))
		var toDelete [][]byte
		c := ns.Cursor()
		for k, v := c.Seek([]byte{layout.KindIndexEntry}); len(k) > 0 && k[0] == layout.KindIndexEntry; k, v = c.Next() {
			if _, of, ok := layout.ParseIndexEntry(k, v); ok && string(of) == key {
				toDelete = append(toDelete, append([]byte(nil), k...))
			}
		}
		for _, k := range toDelete {
			require.NoError(t, ns.Delete(k))
		}
		return nil
	}))
}

func TestEntriesThatMeanNothingDoNoHarm(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`), enginetest.Set("b", `{"n":2}`))
	r.build(t, epoch.Add(time.Hour), "n")
	field, err := statestore.ParseFieldPath("n")
	require.NoError(t, err)
	two := statestore.IndexKeys(&field, []byte(`{"n":2}`))[0]
	for _, key := range []string{"a", "gone"} {
		k, v := layout.IndexEntry(1, two, []byte(key))
		r.put(t, k, v)
	}
	require.Equal(t, []string{"b"}, r.query(t, statestore.Query{Filter: equal("n", 2.0)}))
	require.Equal(t, []string{"a", "b"}, r.query(t, statestore.Query{Filter: &statestore.Comparison{Op: statestore.OpGreater, Path: "n", Value: 0.0}}))
}

func TestDamageFailsAQueryThatMightLackTheValue(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`), enginetest.Set("bad", `{"n":1}`))
	r.put(t, valueKey("bad"), []byte{1, 0xff})
	q := statestore.Query{Filter: equal("n", 1.0)}
	_, err := r.store.Query(ctx, q)
	require.ErrorIs(t, err, statestore.ErrDamaged)
	require.ErrorContains(t, err, `value of key "bad"`)
	r.build(t, epoch.Add(time.Hour), "n")
	require.Equal(t, []string{"a"}, r.query(t, q))
	enginetest.Apply(t, r.store, enginetest.Set("bad", `{"n":1}`))
	require.Equal(t, []string{"a", "bad"}, r.query(t, q))

	r.put(t, layout.IndexEntryPrefix(1), nil)
	_, err = r.store.Query(ctx, statestore.Query{Filter: &statestore.Comparison{Op: statestore.OpLess, Path: "n", Value: 1.0}})
	require.NoError(t, err, "the range does not reach there")
}

func TestAnIndexEndsUnlessItIsAskedFor(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		enginetest.Apply(t, r.store, enginetest.Set(fmt.Sprintf("k%02d", i), fmt.Sprintf(`{"a":%d,"b":%d}`, i, i)))
	}
	r.build(t, epoch.Add(time.Hour), "a", "b")
	r.clock.Advance(30 * time.Minute)
	r.build(t, r.clock.Now().Add(time.Hour), "b")
	r.build(t, r.clock.Now(), "b") // does not shorten it
	r.clock.Advance(30 * time.Minute)
	require.Len(t, r.indexes(t), 2, "it goes with a sweep")

	total := 0
	for more := true; more; {
		var err error
		var swept int
		swept, more, err = r.engine.Sweep(ctx, r.clock.Now(), 8)
		require.NoError(t, err)
		require.Equal(t, map[string]bool{"b": false}, r.indexes(t))
		total += swept
		if total == 8 {
			// Asked for again while it is being removed, it begins anew.
			r.build(t, r.clock.Now().Add(2*time.Hour), "a")
			require.Len(t, r.indexes(t), 2)
			requireIndexesRight(t, r)
			require.Equal(t, 12+20+20, r.count(t)[layout.KindIndexEntry])
			require.Equal(t, 3, r.count(t)[kindIndex])
			break
		}
	}
	enginetest.SweepAll(t, r.engine, r.clock.Now(), 8)
	require.Equal(t, map[byte]int{layout.KindValue: 20, layout.KindIndexEntry: 40, kindIndex: 2}, r.count(t))
	requireIndexesRight(t, r)

	r.clock.Advance(3 * time.Hour)
	enginetest.SweepAll(t, r.engine, r.clock.Now(), 8)
	require.Equal(t, map[byte]int{layout.KindValue: 20}, r.count(t))
}

func TestBuildingAnIndexDoesNotShortenItsRetention(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`), enginetest.Set("b", `{"n":1}`))
	_, err := r.engine.BuildIndexes(ctx, []string{"n"}, epoch.Add(time.Hour), 1)
	require.NoError(t, err)
	r.build(t, epoch.Add(time.Minute), "n")
	r.clock.Advance(time.Minute)
	swept, _, err := r.engine.Sweep(ctx, r.clock.Now(), 10)
	require.NoError(t, err)
	require.Zero(t, swept)
	require.Len(t, r.indexes(t), 1)
}

func TestADamagedIndexIsReplaced(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`))
	r.build(t, epoch.Add(time.Hour), "n")
	r.put(t, indexRecordKey(1), []byte{1, 0xff})
	enginetest.Apply(t, r.store, enginetest.Set("b", `{"n":1}`))
	require.Equal(t, []string{"a", "b"}, r.query(t, statestore.Query{Filter: equal("n", 1.0)}))
	r.build(t, epoch.Add(time.Hour), "n")
	require.Equal(t, map[string]bool{"n": false}, r.indexes(t))
	requireIndexesRight(t, r)
	_, _, err := r.engine.Sweep(ctx, r.clock.Now(), 100)
	require.NoError(t, err)
	require.Equal(t, map[byte]int{layout.KindValue: 2, layout.KindIndexEntry: 2, kindIndex: 1}, r.count(t))
}

func TestBuildingNothingSpendsNoCommit(t *testing.T) {
	r := newRig(t)
	enginetest.Apply(t, r.store, enginetest.Set("a", `{"n":1}`))
	r.build(t, epoch.Add(time.Hour), "n")
	before := r.commits()
	r.build(t, epoch.Add(time.Hour), "n")
	require.Equal(t, before, r.commits())
}

func TestLargestKeyFitsAnIndex(t *testing.T) {
	r := newRig(t)
	r.build(t, epoch.Add(time.Hour), "s")
	key, text := strings.Repeat("k", statestore.MaxKeySize), strings.Repeat("s", 100_000)
	enginetest.Apply(t, r.store, enginetest.Set(key, fmt.Sprintf(`{"s":%q}`, text)))
	require.Equal(t, []string{key}, r.query(t, statestore.Query{Filter: equal("s", text)}))
	require.Empty(t, r.query(t, statestore.Query{Filter: equal("s", text+"s")}))
	requireIndexesRight(t, r)
}
