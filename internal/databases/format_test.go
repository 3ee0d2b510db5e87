package databases

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

// What older builds have stored must be there for this one, and nothing of it may be damaged by opening or compacting.
func TestFilesOfEveryFormat(t *testing.T) {
	for version := 2; version <= boltdb.FormatVersion; version++ {
		raw, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("format-%d.db", version)))
		require.NoError(t, err)
		for name, prepare := range map[string]func(t *testing.T, path string){
			"as it is": func(*testing.T, string) {},
			"compacted": func(t *testing.T, path string) {
				_, _, err := boltdb.Compact(t.Context(), path)
				require.NoError(t, err)
				require.ElementsMatch(t, []string{"format", "state/state", "pubsub/pubsub"}, topLevel(t, path))
			},
		} {
			t.Run(fmt.Sprintf("%d %s", version, name), func(t *testing.T) {
				dir := t.TempDir()
				path := FilePath(dir, "dapr")
				require.NoError(t, os.WriteFile(path, raw, 0o600))
				prepare(t, path)
				m, err := Open(t.Context(), Options{Dir: dir})
				require.NoError(t, err)
				t.Cleanup(func() {
					require.NoError(t, m.Close(context.Background()))
					require.Empty(t, check(t, path))
				})
				holdsState(t, m)
				holdsEvents(t, m)
			})
		}
	}
}

func check(t *testing.T, path string) (problems []error) {
	t.Helper()
	require.NoError(t, boltdb.Check(context.Background(), path, func(problem error) { problems = append(problems, problem) }, stateengine.Check))
	return problems
}

// topLevel returns the names of the buckets at the top of the file.
func topLevel(t *testing.T, path string) (names []string) {
	t.Helper()
	db, err := boltdb.Open(t.Context(), path, boltdb.Options{})
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *boltdb.Tx) error {
		return tx.ForEach(func(name []byte, _ *boltdb.Bucket) error {
			names = append(names, string(name))
			return nil
		})
	}))
	require.NoError(t, db.Close())
	return names
}

func holdsState(t *testing.T, m *Manager) {
	t.Helper()
	store, err := m.StateStore(t.Context(), "dapr", DefaultStateBucket)
	require.NoError(t, err)
	for key, want := range map[string]string{
		"plain": "value", "json": `{"b":1, "a": 12345678901234567890}`, "ttl": "long", "once": "first", "gone": "",
	} {
		item, err := store.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, want, string(item.Value), key)
		require.Equal(t, want != "", item.ETag != "", key)
		switch key {
		case "ttl":
			require.True(t, item.Expires.After(time.Now()), item.Expires)
		case "json":
			require.Equal(t, "application/json", item.ContentType)
		}
	}
	again := []statestore.Write{{Op: statestore.OpSet, Key: "once", Value: []byte("second")}}
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: again, IdempotencyKey: "key-1"}))
	item, err := store.Get(t.Context(), "once")
	require.NoError(t, err)
	require.Equal(t, "first", string(item.Value), "its idempotency key is remembered")
}

func holdsEvents(t *testing.T, m *Manager) {
	t.Helper()
	broker, err := m.ExistingBroker(t.Context(), "dapr", DefaultPubSubBucket)
	require.NoError(t, err)
	dead, _, err := broker.DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, "dead", dead[0].Event.ID)
	require.Equal(t, "shop", dead[0].Group)
	require.Equal(t, "out of stock", dead[0].LastError())

	by, err := pubsub.ParseDedupBy("id")
	require.NoError(t, err)
	for _, id := range []string{"handled", "dead", "waiting", "delayed", "new"} {
		outcome := broker.Publish(t.Context(), "orders", []pubsub.Message{{EventID: id, Data: []byte(id)}}, pubsub.PublishOptions{DedupBy: by, DedupWindow: time.Hour})
		require.NoError(t, outcome[0])
	}
	s, err := broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Group: "shop", Topic: "orders", MaxAckPending: 10})
	require.NoError(t, err)
	defer s.Close()
	for _, want := range []struct{ id, data string }{{"waiting", "3"}, {"new", "new"}} {
		d, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, want.id, d.Event.ID, "the others are handled, dead, delayed, or known already")
		require.Equal(t, want.data, string(d.Event.Data))
		d.Ack()
	}
	stats, err := broker.Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, stats[0].Delayed)
}
