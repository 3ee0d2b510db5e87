package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// engineOf opens a bucket by a connection of its own, as another process would.
func engineOf(t *testing.T, access servers.Access, bucket string) *etcdengine.Engine {
	t.Helper()
	access.DialTimeout = waitLong
	cluster, err := etcdengine.Connect(t.Context(), access)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	var engine *etcdengine.Engine
	// A busy machine may take longer than a test lets requests take.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		engine, err = cluster.Engine(t.Context(), "dapr", bucket)
		require.NoError(c, err)
	}, waitLong, 20*time.Millisecond)
	return engine
}

// sets is a transaction that sets keys to a JSON value.
func sets(ttl time.Duration, keys ...string) statestore.Transaction {
	var t statestore.Transaction
	for _, key := range keys {
		t.Writes = append(t.Writes, statestore.Write{Op: statestore.OpSet, Key: key, Value: fmt.Appendf(nil, `{"at":%d}`, time.Now().UnixNano()), TTL: ttl})
	}
	return t
}

// Keys that one process writes all the time keep no other from building an index over them, from writing them, and from
// sweeping what they leave behind when they expire.
func TestHotKeysStarveNobody(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	access := servers.Access{Endpoints: etcd.Endpoints(), RequestTimeout: time.Minute}
	const hot = 256
	var keys []string
	for i := range hot {
		keys = append(keys, fmt.Sprint("key-", i))
	}
	// write writes each key again and again, a few at a time, until the test ends.
	write := func(t *testing.T, bucket string, ttl time.Duration) {
		engine := engineOf(t, access, bucket)
		_, err := engine.Apply(t.Context(), []statestore.Transaction{sets(ttl, keys...)}, time.Now)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(context.Background())
		var writing sync.WaitGroup
		writing.Go(func() {
			for i := 0; ctx.Err() == nil; i += 16 {
				if _, err := engine.Apply(ctx, []statestore.Transaction{sets(ttl, keys[i%hot:i%hot+16]...)}, time.Now); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
		t.Cleanup(func() { stop(); writing.Wait() })
	}

	t.Run("index", func(t *testing.T) {
		write(t, "index", 0)
		engine := engineOf(t, access, "index")
		for complete := false; !complete; {
			step, err := engine.BuildIndexes(t.Context(), []string{"at"}, time.Now().Add(time.Hour), 1000)
			require.NoError(t, err)
			complete = step.Complete
		}
		// From here on, every write depends on what it replaces.
		var batch []statestore.Transaction
		for _, key := range keys {
			batch = append(batch, sets(0, key))
		}
		for range 5 {
			outcomes, err := engine.Apply(t.Context(), batch, time.Now)
			require.NoError(t, err)
			require.NoError(t, errors.Join(outcomes...))
		}
	})
	t.Run("sweep", func(t *testing.T) {
		write(t, "sweep", 100*time.Millisecond)
		engine := engineOf(t, access, "sweep")
		require.Eventually(t, func() bool {
			swept := 0
			for range 20 {
				n, _, err := engine.Sweep(t.Context(), time.Now(), 1000)
				require.NoError(t, err)
				swept += n
			}
			t.Logf("swept %d", swept)
			return swept > 20*hot/2
		}, waitLong, 20*time.Millisecond, "what expired stays")
	})
}

// While no server answers, a call fails within its time however many wait before it.
func TestCallsDoNotQueueForServersThatAreAway(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	engine := engineOf(t, servers.Access{Endpoints: etcd.Endpoints(), RequestTimeout: 2 * time.Second}, "b")
	etcd.Servers[0].Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var calling sync.WaitGroup
	for i := range 200 {
		calling.Go(func() {
			large := statestore.Write{Op: statestore.OpSet, Key: fmt.Sprint(i), Value: []byte(strings.Repeat("x", 400<<10))}
			_, err := engine.Apply(t.Context(), []statestore.Transaction{{Writes: []statestore.Write{large}}}, time.Now)
			if !errors.Is(err, statestore.ErrUnavailable) || ctx.Err() != nil {
				t.Errorf("call %d, after %v: %v", i, ctx.Err(), err)
			}
		})
	}
	calling.Wait()
}

// A server that has lost the others is passed over, also for reads.
func TestAServerWithoutLeaderIsPassedOver(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	good := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	alone := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{})
	alone.Servers[1].Kill()
	alone.Servers[2].Kill()
	// It says that it has no leader when it has noticed.
	require.Eventually(t, func() bool { return !alone.Servers[0].Leads(t.Context()) }, waitLong, 20*time.Millisecond)
	engine := engineOf(t, servers.Access{Endpoints: good.Endpoints() + "," + alone.Servers[0].Endpoint}, "b")
	for range 10 {
		_, err := engine.Get(t.Context(), []string{"k"}, 1<<20, time.Now())
		require.NoError(t, err)
		require.NoError(t, engine.Walk(t.Context(), "", time.Now(), func(statestore.Item) bool { return true }))
	}
}
