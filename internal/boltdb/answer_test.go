package boltdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// What carries a request to the writer is used again for the next one. Each caller must get its own answer, also beside
// callers that leave and functions that spoil the transaction for the others.
func TestEachCallerGetsItsOwnAnswer(t *testing.T) {
	db := open(t)
	call := func(key string, kind int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		write, refused := put(key, "v"), errors.New("refused: "+key)
		fn, want := write, error(nil)
		switch kind {
		case 0:
			fn, want = func(*Tx) error { return refused }, refused
		case 1:
			fn, want = func(tx *Tx) error { return Dirty(errors.Join(write(tx), refused)) }, refused
		case 2:
			go cancel()
		}
		err := db.Update(ctx, fn)
		if left := kind == 2 && errors.Is(err, context.Canceled); !left && !errors.Is(err, want) {
			t.Errorf("%s was answered %v, want %v", key, err, want)
		}
		stored := false
		viewed := db.View(func(tx *Tx) error {
			b := tx.Bucket(testBucket)
			stored = b != nil && b.Get([]byte(key)) != nil
			return nil
		})
		if viewed != nil || stored != (err == nil) {
			t.Errorf("%s was answered %v, and stored is %t", key, err, stored)
		}
	}
	var callers sync.WaitGroup
	for caller := range 16 {
		callers.Go(func() {
			for i := range 50 {
				call(fmt.Sprintf("%d-%d", caller, i), (caller+i)%4)
			}
		})
	}
	callers.Wait()
}
