package admin

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBroker keeps dead letters in a slice, by ascending id.
type fakeBroker struct {
	letters []pubsub.DeadLetter
	removed [][2]string
	stats   []pubsub.TopicStats
	// most is the largest page that was asked for.
	most int
	err  error
}

func (b *fakeBroker) DeadLetters(_ context.Context, f pubsub.DeadLetterFilter) ([]pubsub.DeadLetter, error) {
	b.most = max(b.most, f.Limit)
	var out []pubsub.DeadLetter
	for _, d := range b.letters {
		if d.ID > f.After && len(out) < f.Limit &&
			(f.Topic == "" || f.Topic == d.Event.Topic) &&
			(f.Group == "" || f.Group == d.Group) &&
			!d.Time.Before(f.Since) &&
			strings.Contains(string(d.Event.Data), f.Text) {
			out = append(out, d)
		}
	}
	return out, b.err
}

func (b *fakeBroker) DeadLetter(_ context.Context, id uint64) (pubsub.DeadLetter, error) {
	for _, d := range b.letters {
		if d.ID == id {
			return d, nil
		}
	}
	return pubsub.DeadLetter{}, fmt.Errorf("dead letter %d: %w", id, pubsub.ErrNotFound)
}

func (b *fakeBroker) take(ids []uint64) (taken []pubsub.DeadLetter) {
	b.letters = slices.DeleteFunc(b.letters, func(d pubsub.DeadLetter) bool {
		chosen := slices.Contains(ids, d.ID)
		if chosen {
			taken = append(taken, d)
		}
		return chosen
	})
	return taken
}

func (b *fakeBroker) Redrive(_ context.Context, ids []uint64) ([]pubsub.DeadLetter, error) {
	return b.take(ids), b.err
}

func (b *fakeBroker) Purge(_ context.Context, ids []uint64) (int, error) {
	return len(b.take(ids)), b.err
}

func (b *fakeBroker) Stats(context.Context) ([]pubsub.TopicStats, error) { return b.stats, b.err }

func (b *fakeBroker) RemoveGroup(_ context.Context, topic, group string) error {
	if topic == "" {
		return &pubsub.InvalidError{Field: "topic", Value: topic, Allowed: "a name"}
	}
	b.removed = append(b.removed, [2]string{topic, group})
	return b.err
}

type fakeBackend struct {
	broker *fakeBroker
	backup string
}

func (b *fakeBackend) Broker(_ context.Context, database, bucket string) (Broker, error) {
	if err := databases.CheckName("database", database); err != nil {
		return nil, err
	}
	if database != "dapr" || bucket != "pubsub" {
		return nil, fmt.Errorf("%s/%s: %w", database, bucket, fs.ErrNotExist)
	}
	return b.broker, nil
}

func (b *fakeBackend) Namespaces(context.Context) ([]Namespace, error) {
	return []Namespace{{Database: "dapr", Bucket: "pubsub", Broker: b.broker}}, nil
}

func (b *fakeBackend) Databases() ([]databases.Database, error) {
	return []databases.Database{{Name: "dapr", Path: "/data/dapr.db", Size: 4096}}, nil
}

func (b *fakeBackend) Backup(_ context.Context, database, path string) error {
	b.backup = database
	return os.WriteFile(path, []byte("copy"), 0o600)
}

var died = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func letter(id uint64, data string) pubsub.DeadLetter {
	return pubsub.DeadLetter{
		ID:     id,
		Group:  "app",
		Reason: pubsub.ReasonMaxDeliver,
		Time:   died.Add(time.Duration(id) * time.Second),
		Event:  pubsub.Event{Sequence: id, Topic: "orders", ID: fmt.Sprintf("event-%d", id), Data: []byte(data), PublishTime: died},
		History: pubsub.History{
			Deliveries: 2,
			Attempts:   []pubsub.Attempt{{At: died, Error: "first"}, {At: died, Error: "second"}},
		},
	}
}

// socketPath is short: a socket's path has a limit that test directories come close to.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bolt")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, SocketName)
}

func start(t *testing.T, backend *fakeBackend) *Client {
	t.Helper()
	path := socketPath(t)
	s, err := Listen(t.Context(), Options{
		Path:    path,
		Backend: backend,
		Ready:   func(context.Context) error { return nil },
		Info:    func() Info { return Info{Version: "v1", Socket: "/run/bolt.sock"} },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	c := NewClient(path)
	t.Cleanup(c.Close)
	return c
}
