package performance_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var keys = flag.Int("keys", 10_000, "how many keys end in the same minute; `make sweep` takes a million")

const (
	patience = 15 * time.Minute
	poll     = 50 * time.Millisecond
	// measured is the number from which on times mean something.
	measured = 100_000

	loaders  = 8
	bulkKeys = 500
	valueLen = 128
	// Of so many keys, one is set again with a later end, and one without an end.
	again = 100
	// lasting keys have no end; the load reads and writes them.
	lasting = 1000
)

// Keys that end in the same minute are removed from the file in steps: all of them, and no key that was set again since.
// With many of them, what others see of it is printed.
func TestKeysThatEndTogetherAreSwept(t *testing.T) {
	big := *keys >= measured
	spread, quiet, cleanup := 2*time.Second, time.Second, time.Second
	if big {
		spread, quiet, cleanup = time.Minute, 20*time.Second, time.Minute
	}
	bolt, store := start(t, cleanup)

	write(t, store, lasting, func(i int) *proto.SetRequest { return set(lastingKey(i), 0) })
	began := time.Now()
	end := began.Add(quiet + time.Duration(*keys)*time.Second/8000)
	write(t, store, *keys, func(i int) *proto.SetRequest {
		at := end.Add(time.Duration(rand.Int64N(int64(spread))))
		return set(endingKey(i), max(1, int(time.Until(at).Seconds())))
	})
	survivors := 0
	write(t, store, *keys/again, func(i int) *proto.SetRequest { survivors++; return set(endingKey(i*again), 3600) })
	write(t, store, *keys/again, func(i int) *proto.SetRequest { survivors++; return set(endingKey(i*again+1), 0) })
	fmt.Printf("%d keys set in %s\n", *keys, time.Since(began).Round(time.Second))

	users := use(t, store)
	before := users.during(func() { wait(t, time.Until(end)) })
	ending := *keys - survivors
	during := users.during(func() {
		// Of the last few the log says nothing.
		require.Eventually(t, func() bool { return removed(t, bolt) >= ending*95/100 }, patience, poll, "records that the log says were removed")
	})
	after := users.during(func() { wait(t, quiet) })
	users.stop()
	if big {
		before.print("before")
		during.print("during")
		after.print("after")
		fmt.Printf("p99 during the sweep, as a multiple of the quiet one before and after it: reads %.2f and %.2f, writes %.2f and %.2f\n",
			ratio(during.reads, before.reads), ratio(during.reads, after.reads), ratio(during.writes, before.writes), ratio(during.writes, after.writes))
	}
	for i := range *keys {
		if i%again < 2 {
			answer, err := store.Get(t.Context(), &proto.GetRequest{Key: endingKey(i)})
			require.NoError(t, err)
			require.Len(t, answer.GetData(), valueLen, "key %d, which was set again", i)
		}
	}

	// What was set again with an end has an entry in the order of time beside its value.
	want := lasting + survivors + survivors/2
	for {
		require.NoError(t, bolt.Stop())
		got := records(t, filepath.Join(bolt.DataDir, "dapr.db"))
		require.GreaterOrEqual(t, got, want, "records in the file")
		if got == want {
			break
		}
		require.Less(t, time.Since(began), patience, "%d records are left in the file, not %d", got, want)
		require.NoError(t, bolt.Restart(t.Context()))
		wait(t, cleanup+cleanup/2)
	}
	var report struct{ Sound bool }
	require.NoError(t, bolt.Command(t.Context(), &report, "check"))
	require.True(t, report.Sound)
}

// start starts dapr-bolt and initialises a store in it.
func start(t *testing.T, cleanup time.Duration) (*harness.Bolt, proto.StateStoreClient) {
	t.Helper()
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "store")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.InitState(t.Context(), "cleanupInterval", cleanup.String()))
	return bolt, c.State
}

func lastingKey(i int) string { return fmt.Sprintf("lasting-%d", i) }

// endingKey is as random as the id of a session, so that keys that end together do not lie together.
func endingKey(i int) string {
	n := uint64(i)*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	return fmt.Sprintf("session-%016x", n^n>>27)
}

// set sets a key that ends after so many seconds; 0: never.
func set(key string, seconds int) *proto.SetRequest {
	r := &proto.SetRequest{Key: key, Value: make([]byte, valueLen)}
	if seconds > 0 {
		r.Metadata = map[string]string{"ttlInSeconds": strconv.Itoa(seconds)}
	}
	return r
}

// write makes n sets, several at a time.
func write(t *testing.T, store proto.StateStoreClient, n int, request func(i int) *proto.SetRequest) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	next := 0
	take := func() (items []*proto.SetRequest) {
		mu.Lock()
		defer mu.Unlock()
		for ; next < n && len(items) < bulkKeys; next++ {
			items = append(items, request(next))
		}
		return items
	}
	for range loaders {
		group.Go(func() {
			for items := take(); len(items) > 0; items = take() {
				if _, err := store.BulkSet(t.Context(), &proto.BulkSetRequest{Items: items}); err != nil {
					t.Errorf("bulk set: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	require.False(t, t.Failed())
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

var removedLine = regexp.MustCompile(`msg="removed expired state".* records=(\d+)`)

// removed adds up what the log says.
func removed(t *testing.T, bolt *harness.Bolt) (n int) {
	t.Helper()
	raw, err := os.ReadFile(bolt.LogPath())
	require.NoError(t, err)
	for _, match := range removedLine.FindAllSubmatch(raw, -1) {
		records, err := strconv.Atoi(string(match[1]))
		require.NoError(t, err)
		n += records
	}
	return n
}

// records counts what the file holds of the store.
func records(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("state/state")).ForEach(func(_, _ []byte) error { n++; return nil })
	}))
	return n
}

func ratio(a, b times) float64 {
	return float64(a.quantile(0.99)) / float64(cmp.Or(b.quantile(0.99), 1))
}
