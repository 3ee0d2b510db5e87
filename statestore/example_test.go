package statestore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

// An event handler that hands on its event's id takes effect once, however often the event is delivered; an ETag keeps
// it from overwriting what somebody else has changed since.
func ExampleStore() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "statestore")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	db, err := boltdb.Open(ctx, filepath.Join(dir, "dapr.db"), boltdb.Options{})
	if err != nil {
		panic(err)
	}
	defer db.Close()
	engine, err := boltengine.New(db, "state")
	if err != nil {
		panic(err)
	}
	store, err := statestore.New(engine, statestore.Options{})
	if err != nil {
		panic(err)
	}
	defer store.Close(ctx)

	for range 3 {
		err := store.Apply(ctx, statestore.Transaction{IdempotencyKey: "event-42", Writes: []statestore.Write{
			{Op: statestore.OpSet, Key: "todo-1", Value: []byte(`{"title":"write"}`), ContentType: "application/json"},
			{Op: statestore.OpSet, Key: "todo-count", Value: []byte("1")},
		}})
		fmt.Println("event-42:", err)
	}
	todo, err := store.Get(ctx, "todo-1")
	fmt.Printf("%s %v\n", todo.Value, err)

	for range 2 {
		err := store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{
			{Op: statestore.OpSet, Key: "todo-1", Value: []byte(`{"title":"write","done":true}`), ETag: todo.ETag},
		}})
		fmt.Println("mismatch:", errors.Is(err, statestore.ErrETagMismatch))
	}
	// Output:
	// event-42: <nil>
	// event-42: <nil>
	// event-42: <nil>
	// {"title":"write"} <nil>
	// mismatch: false
	// mismatch: true
}
