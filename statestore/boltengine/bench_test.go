package boltengine

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

const (
	benchKeys    = 10_000
	benchClients = 64
	benchValue   = 1 << 10
)

// benchNames are the keys in an order in which neighbours are far apart.
var benchNames = func() []string {
	names := make([]string, benchKeys)
	for i := range names {
		names[i] = fmt.Sprintf("bench||key-%05d", i*7919%benchKeys)
	}
	return names
}()

func benchKey(i int64) string { return benchNames[i%benchKeys] }

// inParallel calls op from the given number of clients, with a number that is never the same.
func inParallel(b *testing.B, clients int, op func(i int64) error) {
	b.Helper()
	var n atomic.Int64
	b.SetParallelism((clients + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := op(n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkSet sets 1 KiB values from 64 clients; every set is synced.
func BenchmarkSet(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(t *statestore.Transaction, i int64)
	}{
		{"plain", func(*statestore.Transaction, int64) {}},
		{"ttl", func(t *statestore.Transaction, _ int64) { t.Writes[0].TTL = statestore.DefaultIdempotencyWindow }},
		{"idempotent", func(t *statestore.Transaction, i int64) { t.IdempotencyKey = fmt.Sprint(i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b)
			value := make([]byte, benchValue)
			inParallel(b, benchClients, func(i int64) error {
				t := statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: benchKey(i), Value: value}}}
				c.change(&t, i)
				return r.store.Apply(ctx, t)
			})
		})
	}
}

// BenchmarkTransaction sets ten 1 KiB values in each transaction, from 64 clients.
func BenchmarkTransaction(b *testing.B) {
	r := newRig(b)
	value := make([]byte, benchValue)
	inParallel(b, benchClients, func(i int64) error {
		writes := make([]statestore.Write, 10)
		for j := range writes {
			writes[j] = statestore.Write{Op: statestore.OpSet, Key: benchKey(i*10 + int64(j)), Value: value}
		}
		return r.store.Apply(ctx, statestore.Transaction{Writes: writes})
	})
}

// BenchmarkGet reads 1 KiB values from a client per CPU.
func BenchmarkGet(b *testing.B) {
	r := newRig(b)
	var writes []statestore.Write
	for i := range int64(benchKeys) {
		writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: benchKey(i), Value: make([]byte, benchValue)})
	}
	enginetest.Apply(b, r.store, writes...)
	b.ResetTimer()
	inParallel(b, 1, func(i int64) error {
		item, err := r.store.Get(ctx, benchKey(i))
		if err == nil && !item.Found {
			return fmt.Errorf("no such key: %s", item.Key)
		}
		return err
	})
}
