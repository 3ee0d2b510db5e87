package databases

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *Manager {
	t.Helper()
	m, err := Open(t.Context(), Options{Dir: dir, Clock: clockwork.NewFakeClock()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	return m
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"dapr", "a", "A-b_9", strings.Repeat("x", 64), "-"} {
		require.NoError(t, CheckName("database", name), name)
	}
	for _, name := range []string{"", ".", "..", "../x", "a/b", `a\b`, "a.db", "a b", "ä", "a\x00", strings.Repeat("x", 65)} {
		err := CheckName("database", name)
		require.ErrorIs(t, err, statestore.ErrInvalidArgument, name)
		require.ErrorContains(t, err, "invalid database ")
		require.ErrorContains(t, err, "allowed: 1 to 64 letters, digits, - and _")
	}
}

func TestBadNamesCreateNothing(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	calls := map[string]func(database, bucket string) error{
		"state store":     func(d, b string) error { _, err := m.StateStore(t.Context(), d, b); return err },
		"broker":          func(d, b string) error { _, err := m.Broker(t.Context(), d, b); return err },
		"existing broker": func(d, b string) error { _, err := m.ExistingBroker(t.Context(), d, b); return err },
	}
	for what, call := range calls {
		require.ErrorContains(t, call("../x", "b"), `invalid database "../x"`, what)
		require.ErrorContains(t, call("x", "a/b"), `invalid bucket "a/b"`, what)
	}
	require.ErrorContains(t, m.OpenDatabase(t.Context(), "a/b"), `invalid database "a/b"`)
	require.ErrorContains(t, m.Backup(t.Context(), "a/b", "/x"), `invalid database "a/b"`)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestOneStoreAndOneBrokerForEachBucket(t *testing.T) {
	m := open(t, t.TempDir())
	const callers = 16
	stores, brokers := make([]*statestore.Store, callers), make([]pubsub.Service, callers)
	errs := make([]error, 2*callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() { stores[i], errs[2*i] = m.StateStore(t.Context(), "dapr", "b") })
		all.Go(func() { brokers[i], errs[2*i+1] = m.Broker(t.Context(), "dapr", "b") })
	}
	all.Wait()
	for i := range callers {
		require.NoError(t, errs[2*i])
		require.NoError(t, errs[2*i+1])
		require.Same(t, stores[0], stores[i])
		require.Same(t, brokers[0], brokers[i])
	}
	other, err := m.StateStore(t.Context(), "dapr", "c")
	require.NoError(t, err)
	require.NotSame(t, stores[0], other)
}

func TestDataSurvivesReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	m, err := Open(t.Context(), Options{Dir: dir})
	require.NoError(t, err)
	store, err := m.StateStore(t.Context(), "dapr", "b")
	require.NoError(t, err)
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "k", Value: []byte("v")}}}))
	require.NoError(t, m.Close(t.Context()))

	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, "dapr.db"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	store, err = open(t, dir).StateStore(t.Context(), "dapr", "b")
	require.NoError(t, err)
	item, err := store.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(item.Value))
}

func TestADirectoryThatOthersReachIsLeftAloneWithAWarning(t *testing.T) {
	for mode, warns := range map[os.FileMode]bool{0o700: false, 0o750: true, 0o701: true} {
		t.Run(fmt.Sprintf("%#o", mode), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, mode))
			var log bytes.Buffer
			m, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			require.NoError(t, m.Close(t.Context()))
			require.Equal(t, warns, strings.Contains(log.String(), "other users can reach the data directory"), log.String())
			info, err := os.Stat(dir)
			require.NoError(t, err)
			require.Equal(t, mode, info.Mode().Perm())
		})
	}
}

func TestExistingBrokerCreatesNothing(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)

	_, err := m.ExistingBroker(t.Context(), "dapr", "pubsub")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, `there is no database "dapr"`)
	require.ErrorContains(t, err, "there is none")
	require.NoFileExists(t, FilePath(dir, "dapr"))

	_, err = m.Broker(t.Context(), "one", "here")
	require.NoError(t, err)
	_, err = m.ExistingBroker(t.Context(), "dapr", "here")
	require.ErrorContains(t, err, "there is one")
	_, err = m.ExistingBroker(t.Context(), "one", "elsewhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, `bucket "elsewhere"`)
	require.ErrorContains(t, err, "there is here")
	buckets, err := m.files.made()["one"].Namespaces(boltdb.KindPubSub)
	require.NoError(t, err)
	require.Equal(t, []string{"here"}, buckets)
}

func TestExistingBrokerOpensWhatAnEarlierProcessLeft(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(t.Context(), Options{Dir: dir})
	require.NoError(t, err)
	_, err = m.Broker(t.Context(), "dapr", "pubsub")
	require.NoError(t, err)
	require.NoError(t, m.Close(t.Context()))

	m = open(t, dir)
	b, err := m.ExistingBroker(t.Context(), "dapr", "pubsub")
	require.NoError(t, err)
	again, err := m.Broker(t.Context(), "dapr", "pubsub")
	require.NoError(t, err)
	require.Same(t, b, again)
	brokers, err := m.Brokers(t.Context())
	require.NoError(t, err)
	require.Equal(t, []OpenBroker{{Database: "dapr", Bucket: "pubsub", Broker: b}}, brokers)
}

func TestLookingLeavesRoomForThoseWhoWork(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(t.Context(), Options{Dir: dir})
	require.NoError(t, err)
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		_, err = m.Broker(t.Context(), name, "pubsub")
		require.NoError(t, err)
	}
	require.NoError(t, m.Close(t.Context()))

	m, err = Open(t.Context(), Options{Dir: dir, MaxDatabases: 4})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	brokers, err := m.Brokers(t.Context())
	require.Len(t, brokers, 2)
	for _, left := range names[2:] {
		require.ErrorContains(t, err, "database "+left+": ")
	}
	require.ErrorIs(t, err, ErrTooMany)
	for _, name := range names[3:] {
		_, err = m.Broker(t.Context(), name, "pubsub")
		require.NoError(t, err)
	}
	brokers, err = m.Brokers(t.Context())
	require.Error(t, err)
	require.Len(t, brokers, 4, "what is in use is always there")
}

func TestALockedDatabaseIsRefusedAndCanBeTriedAgain(t *testing.T) {
	dir := t.TempDir()
	holder, err := boltdb.Open(t.Context(), FilePath(dir, "held"), boltdb.Options{})
	require.NoError(t, err)

	m := open(t, dir)
	_, err = m.Broker(t.Context(), "held", "pubsub")
	require.ErrorIs(t, err, boltdb.ErrLocked)
	require.ErrorContains(t, err, FilePath(dir, "held"))

	require.NoError(t, holder.Close())
	_, err = m.Broker(t.Context(), "held", "pubsub")
	require.NoError(t, err)
}

func TestOpeningOneDatabaseHoldsUpNoOther(t *testing.T) {
	m := open(t, t.TempDir())
	entered, release := make(chan struct{}), make(chan struct{})
	openFile := m.files.make
	m.files.make = func(ctx context.Context, name string) (*boltdb.DB, error) {
		if name == "slow" {
			close(entered)
			<-release
		}
		return openFile(ctx, name)
	}
	var slow sync.WaitGroup
	var slowErr error
	slow.Go(func() { slowErr = m.OpenDatabase(context.Background(), "slow") })
	<-entered

	require.NoError(t, m.OpenDatabase(t.Context(), "fast"))
	require.NoError(t, m.Health(t.Context()).Err)
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, m.OpenDatabase(impatient, "slow"), context.Canceled)

	close(release)
	slow.Wait()
	require.NoError(t, slowErr, "a caller that leaves takes nothing from the others")
}

func TestReady(t *testing.T) {
	m := open(t, t.TempDir())
	require.ErrorContains(t, m.Health(t.Context()).Err, "no database is open")
	require.NoError(t, m.OpenDatabase(t.Context(), "dapr"))
	require.NoError(t, m.Health(t.Context()).Err)
	require.NoError(t, m.files.made()["dapr"].Close())
	require.ErrorContains(t, m.Health(t.Context()).Err, "database dapr: the database is closed")
}

func TestDatabases(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	require.NoError(t, m.OpenDatabase(t.Context(), "two"))
	require.NoError(t, m.OpenDatabase(t.Context(), "one"))
	list, err := m.Databases()
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "one", list[0].Name)
	require.Equal(t, FilePath(dir, "two"), list[1].Path)
	require.Positive(t, list[1].Size)
}

// The process works on with it, and that can be seen.
func TestADatabaseThatWasRemovedIsListed(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	_, err := m.Broker(t.Context(), "dapr", "pubsub")
	require.NoError(t, err)
	require.NoError(t, os.Remove(FilePath(dir, "dapr")))
	require.ErrorContains(t, m.Health(t.Context()).Err, "was removed or replaced")
	list, err := m.Databases()
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Zero(t, list[0].Size)
	brokers, err := m.Brokers(t.Context())
	require.NoError(t, err)
	require.Len(t, brokers, 1)
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	store, err := m.StateStore(t.Context(), "dapr", "state")
	require.NoError(t, err)
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: "k", Value: []byte("v")}}}))

	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, m.Backup(t.Context(), "dapr", copied))
	require.Empty(t, check(t, copied))
	require.NoError(t, os.Rename(copied, FilePath(dir, "restored")))
	store, err = m.StateStore(t.Context(), "restored", "state")
	require.NoError(t, err)
	item, err := store.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(item.Value))

	require.ErrorIs(t, m.Backup(t.Context(), "dapr", FilePath(dir, "restored")), fs.ErrExist)
	require.ErrorIs(t, m.Backup(t.Context(), "dapr", "relative.db"), fs.ErrInvalid)
	// It would be opened by whoever looks, and lack its log when it is moved away.
	beside := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, beside))
	for _, path := range []string{FilePath(dir, "copy"), FilePath(beside, "copy")} {
		err := m.Backup(t.Context(), "dapr", path)
		require.ErrorIs(t, err, fs.ErrInvalid)
		require.ErrorContains(t, err, "allowed: another folder, or a name without .db at its end")
		require.NoFileExists(t, path)
	}
	require.NoError(t, m.Backup(t.Context(), "dapr", filepath.Join(dir, "backup")))
	require.ErrorIs(t, m.Backup(t.Context(), "none", copied), fs.ErrNotExist)
	require.NoFileExists(t, copied)
}

func TestCloseEndsEverything(t *testing.T) {
	m, err := Open(t.Context(), Options{Dir: t.TempDir()})
	require.NoError(t, err)
	broker, err := m.Broker(t.Context(), "dapr", "pubsub")
	require.NoError(t, err)
	_, err = m.StateStore(t.Context(), "dapr", "state")
	require.NoError(t, err)
	require.NoError(t, m.Close(t.Context()))
	require.NoError(t, m.Close(t.Context()))

	require.ErrorIs(t, broker.Publish(t.Context(), "t", []pubsub.Message{{}}, pubsub.PublishOptions{})[0], pubsub.ErrClosed)
	require.ErrorIs(t, m.OpenDatabase(t.Context(), "dapr"), ErrClosed)
	_, err = m.Broker(t.Context(), "dapr", "pubsub")
	require.ErrorIs(t, err, ErrClosed)
	_, err = m.StateStore(t.Context(), "dapr", "state")
	require.ErrorIs(t, err, ErrClosed)
	db, err := boltdb.Open(t.Context(), FilePath(m.opts.Dir, "dapr"), boltdb.Options{})
	require.NoError(t, err, "the lock is let go")
	require.NoError(t, db.Close())
}
