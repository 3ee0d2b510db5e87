package boltengine

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

const benchKeys = 10_000

func benchKey(i int64) string { return fmt.Sprintf("bench||key-%05d", i*7919%benchKeys) }

// BenchmarkSet sets 512-byte values from 64 clients per CPU; every set is synced.
func BenchmarkSet(b *testing.B) {
	for _, c := range []struct {
		name  string
		write func(w *statestore.Write, i int64)
	}{
		{"plain", func(*statestore.Write, int64) {}},
		{"ttl", func(w *statestore.Write, _ int64) { w.TTL = statestore.DefaultIdempotencyWindow }},
		{"idempotent", func(w *statestore.Write, i int64) { w.IdempotencyKey = fmt.Sprint(i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b)
			value := make([]byte, 512)
			var n atomic.Int64
			b.SetParallelism(64)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					w := statestore.Write{Op: statestore.OpSet, Key: benchKey(i), Value: value}
					c.write(&w, i)
					if err := r.store.ApplyEach(ctx, []statestore.Write{w})[0]; err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkGet reads 512-byte values from a client per CPU.
func BenchmarkGet(b *testing.B) {
	r := newRig(b)
	var writes []statestore.Write
	for i := range int64(benchKeys) {
		writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: benchKey(i), Value: make([]byte, 512)})
	}
	r.apply(b, writes...)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if item, err := r.store.Get(ctx, benchKey(n.Add(1))); err != nil || !item.Found {
				b.Error(item, err)
				return
			}
		}
	})
}
