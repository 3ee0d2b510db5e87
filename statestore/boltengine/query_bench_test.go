package boltengine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

const benchDocuments = 100_000

// benchDocument is about 300 bytes of JSON.
func benchDocument(i int) string {
	return fmt.Sprintf(`{"id":%d,"person":{"name":"name %06d","org":"org-%03d","address":{"city":"city-%02d","zip":"%05d"}},`+
		`"state":%q,"score":%d.5,"tags":["t%d","t%d"],"note":"%0100d"}`,
		i, i*7919%benchDocuments, i%1000, i%50, i%99999, []string{"CA", "WA", "OR", "TX"}[i%4], i%10_000, i%7, i%11, i)
}

func fillDocuments(b *testing.B, r *rig) {
	for start := 0; start < benchDocuments; start += 10_000 {
		var writes []statestore.Write
		for i := start; i < start+10_000; i++ {
			writes = append(writes, enginetest.Set(fmt.Sprintf("app||doc-%06d", i), benchDocument(i)))
		}
		enginetest.Apply(b, r.store, writes...)
	}
}

// BenchmarkQuery asks 100,000 documents, with and without indexes.
func BenchmarkQuery(b *testing.B) {
	r := newRig(b)
	fillDocuments(b, r)
	between := func(path string, from, to float64) statestore.Filter {
		return statestore.And{
			&statestore.Comparison{Op: statestore.OpGreaterOrEqual, Path: path, Value: from},
			&statestore.Comparison{Op: statestore.OpLess, Path: path, Value: to},
		}
	}
	queries := []struct {
		name string
		q    statestore.Query
		want int
	}{
		{"one of 100000", statestore.Query{Filter: equal("person.name", "name 000042")}, 1},
		{"100 of 100000", statestore.Query{Filter: equal("person.org", "org-007")}, 100},
		{"range of 100, sorted", statestore.Query{Filter: between("score", 500, 510), Sort: []statestore.SortKey{{Path: "score", Descending: true}}}, 100},
		{"first 20 of 25000", statestore.Query{Filter: equal("state", "CA"), Limit: 20}, 20},
		{"first 20 of 25000, sorted by two", statestore.Query{Filter: equal("state", "CA"), Limit: 20, Sort: []statestore.SortKey{{Path: "score", Descending: true}, {Path: "person.name"}}}, 20},
		{"first 20, sorted", statestore.Query{Limit: 20, Sort: []statestore.SortKey{{Path: "person.name"}}}, 20},
		// Each key comes before all that were kept so far.
		{"1000 newest first", statestore.Query{Sort: []statestore.SortKey{{Path: "id", Descending: true}}}, statestore.MaxQueryLimit},
	}
	run := func(kind string) {
		for _, c := range queries {
			b.Run(kind+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					page, err := r.store.Query(ctx, c.q)
					require.NoError(b, err)
					require.Len(b, page.Items, c.want)
				}
			})
		}
	}
	run("scan")
	r.build(b, epoch.Add(time.Hour), "person.name", "person.org", "score", "state")
	run("index")
}

// BenchmarkBuildIndex takes 100,000 documents into an index.
func BenchmarkBuildIndex(b *testing.B) {
	r := newRig(b)
	fillDocuments(b, r)
	for i := 0; b.Loop(); i++ {
		r.build(b, epoch.Add(time.Hour), fmt.Sprintf("tags.%d", i%2))
		b.StopTimer()
		enginetest.SweepAll(b, r.engine, epoch.Add(2*time.Hour), 4096)
		b.StartTimer()
	}
}

// BenchmarkSetIndexed sets documents one by one, every set synced, with 0 and 4 indexes to keep right.
func BenchmarkSetIndexed(b *testing.B) {
	for _, paths := range [][]string{nil, {"person.name", "person.org", "score", "state"}} {
		b.Run(fmt.Sprint(len(paths)), func(b *testing.B) {
			r := newRig(b)
			r.build(b, epoch.Add(time.Hour), paths...)
			b.SetParallelism(64)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := r.store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{enginetest.Set(benchKey(int64(i)), benchDocument(i))}}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
