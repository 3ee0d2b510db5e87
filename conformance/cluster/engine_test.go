package cluster_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// The suite that every engine has to pass, on three servers as they are shipped, by two processes' engines in turn.
func TestEngineSuite(t *testing.T) {
	// A history is some hundred writes to disks, where a file has one.
	require.NoError(t, flag.Set("rapid.checks", "5"))
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{})
	endpoints, buckets := etcd.Endpoints(), 0
	other := connect(t, endpoints)
	defer func() { require.NoError(t, other.Close()) }()
	enginetest.Run(t, func() enginetest.Place {
		buckets++
		return &place{endpoints: endpoints, bucket: fmt.Sprint("b", buckets), other: other}
	})
}

// Servers that take too little are refused with the flag that they need; what they take bounds what a store takes.
func TestServersSayWhatTheyTake(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1, Args: []string{}})
	_, err := etcdengine.Connect(t.Context(), servers.Access{Endpoints: etcd.Endpoints()})
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
	require.ErrorContains(t, err, "--max-txn-ops=1024")

	etcd = harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Args: []string{"--max-txn-ops=1024"}})
	cluster := connect(t, etcd.Endpoints())
	defer func() { require.NoError(t, cluster.Close()) }()
	limits := cluster.Limits()
	require.Equal(t, 511, limits.MaxTransactionSize)
	engine, err := cluster.Engine(t.Context(), "dapr", "state")
	require.NoError(t, err)
	store, err := statestore.New(engine, statestore.Options{Limits: limits})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close(context.Background())) }()

	set := func(size int) error {
		return store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{{
			Op: statestore.OpSet, Key: strings.Repeat("k", statestore.MaxKeySize), Value: make([]byte, size),
			ContentType: strings.Repeat("c", statestore.MaxContentTypeSize), TTL: time.Hour,
		}}, IdempotencyKey: fmt.Sprint(size)})
	}
	require.NoError(t, set(limits.MaxValueSize), "the largest that is allowed is taken")
	require.ErrorIs(t, set(limits.MaxValueSize+1), statestore.ErrTooLarge)
	writes := make([]statestore.Write, limits.MaxTransactionSize)
	for i := range writes {
		writes[i] = statestore.Write{Op: statestore.OpSet, Key: fmt.Sprint(i), FirstWrite: true, TTL: time.Hour}
	}
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: writes, IdempotencyKey: "all"}))
}

// Servers without room still lose what has expired, though they grant no lease to whoever sweeps.
func TestWhatHasExpiredMakesRoom(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Args: []string{"--max-txn-ops=4096", "--quota-backend-bytes=8388608"}})
	engine := engineOf(t, servers.Access{Endpoints: etcd.Endpoints(), RequestTimeout: waitLong}, "b")
	now, stored := time.Now(), 0
	for {
		outcomes, err := engine.Apply(t.Context(), []statestore.Transaction{{Writes: []statestore.Write{{
			Op: statestore.OpSet, Key: fmt.Sprint(stored), Value: make([]byte, 256<<10), TTL: time.Second,
		}}}}, func() time.Time { return now })
		if err != nil {
			require.ErrorIs(t, err, statestore.ErrFull)
			require.ErrorContains(t, err, "may have been", "etcd takes the write that passes the quota, and answers that there is no room")
			break
		}
		require.NoError(t, outcomes[0])
		stored++
	}
	last, err := engine.Get(t.Context(), []string{fmt.Sprint(stored)}, statestore.MaxValueSize, now)
	require.NoError(t, err)
	if last[0].Found {
		stored++
	}
	require.Equal(t, stored, enginetest.SweepAll(t, engine, now.Add(time.Minute), 100))
}

// A value can have more entries in indexes than a transaction takes operations: one index after the other was built over it.
// It can be overwritten, deleted and swept all the same, and leaves no entry behind.
func TestMoreIndexEntriesThanATransactionTakes(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Args: []string{"--max-txn-ops=1024"}})
	engine := engineOf(t, servers.Access{Endpoints: etcd.Endpoints(), RequestTimeout: waitLong}, "b")
	now := time.Now()
	apply := func(w statestore.Write) {
		t.Helper()
		outcomes, err := engine.Apply(t.Context(), []statestore.Transaction{{Writes: []statestore.Write{w}}}, func() time.Time { return now })
		require.NoError(t, err)
		require.NoError(t, outcomes[0])
	}
	var array []int
	for i := range statestore.MaxIndexKeys {
		array = append(array, i)
	}
	fields := map[string]any{}
	for i := range 2 * 1024 / statestore.MaxIndexKeys {
		fields[fmt.Sprint("f", i)] = array
	}
	large, err := json.Marshal(fields)
	require.NoError(t, err)
	set := func(key, value string, ttl time.Duration) {
		t.Helper()
		w := enginetest.Set(key, value)
		w.TTL = ttl
		apply(w)
	}
	set("deleted", string(large), 0)
	set("overwritten", string(large), 0)
	set("swept", string(large), time.Second)
	set("swept later", `{"f0":1}`, 2*time.Second)
	for complete := false; !complete; {
		step, err := engine.BuildIndexes(t.Context(), slices.Collect(maps.Keys(fields)), now.Add(time.Hour), 1000)
		require.NoError(t, err)
		complete = step.Path == ""
	}

	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoints()}})
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	entries := func() int64 {
		found, err := raw.Get(t.Context(), servers.DefaultPrefix+"/dapr/state/b/q", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		return found.Count
	}
	require.EqualValues(t, 3*2*1024+1, entries())
	apply(enginetest.Delete("deleted"))
	require.EqualValues(t, 2*2*1024+1, entries())
	set("overwritten", `{"f0":2}`, 0)
	require.EqualValues(t, 2*1024+2, entries())
	require.Equal(t, 2, enginetest.SweepAll(t, engine, now.Add(time.Minute), 100))
	require.EqualValues(t, 1, entries(), "that of the value which is left")
}

// place is a bucket in etcd. One process opens and closes it; another has it open all the time.
type place struct {
	endpoints      string
	bucket         string
	cluster, other *etcdengine.Cluster
	otherEngine    statestore.Engine
}

func (p *place) Open(t require.TestingT) statestore.Engine {
	var err error
	if p.otherEngine == nil {
		p.otherEngine, err = p.other.Engine(ctx, "dapr", p.bucket)
		require.NoError(t, err)
	}
	p.cluster = connect(t, p.endpoints)
	engine, err := p.cluster.Engine(ctx, "dapr", p.bucket)
	require.NoError(t, err)
	return &engines{Engine: engine, all: []statestore.Engine{engine, p.otherEngine}}
}

func (p *place) Close(t require.TestingT) { require.NoError(t, p.cluster.Close()) }

// connect connects to servers that may take as long as a busy machine does.
func connect(t require.TestingT, endpoints string) *etcdengine.Cluster {
	cluster, err := etcdengine.Connect(ctx, servers.Access{Endpoints: endpoints, DialTimeout: waitLong, RequestTimeout: waitLong})
	require.NoError(t, err)
	return cluster
}

// engines are several on the same bucket: each call goes to the next of them.
type engines struct {
	statestore.Engine
	all   []statestore.Engine
	calls atomic.Uint64
}

func (e *engines) next() statestore.Engine { return e.all[e.calls.Add(1)%uint64(len(e.all))] }

func (e *engines) Get(ctx context.Context, keys []string, room int, now time.Time) ([]statestore.Item, error) {
	return e.next().Get(ctx, keys, room, now)
}

func (e *engines) Apply(ctx context.Context, transactions []statestore.Transaction, now func() time.Time) ([]error, error) {
	return e.next().Apply(ctx, transactions, now)
}

func (e *engines) Sweep(ctx context.Context, now time.Time, limit int) (int, bool, error) {
	return e.next().Sweep(ctx, now, limit)
}

func (e *engines) View(ctx context.Context, now time.Time, fn func(statestore.Snapshot) error) error {
	return e.next().View(ctx, now, fn)
}

func (e *engines) BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (statestore.IndexProgress, error) {
	return e.next().BuildIndexes(ctx, paths, until, limit)
}

// Count returns nil: entries in time order stay until their instants have come.
func (p *place) Count(require.TestingT) map[byte]int { return nil }

// CheckIndexes does nothing: the queries of the suite compare what they find.
func (p *place) CheckIndexes(require.TestingT) {}
