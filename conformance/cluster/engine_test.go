package cluster_test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// The suite that every engine has to pass, on three servers as they are shipped.
func TestEngineSuite(t *testing.T) {
	// A history is some hundred writes to disks, where a file has one.
	require.NoError(t, flag.Set("rapid.checks", "5"))
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{})
	buckets := 0
	enginetest.Run(t, func() enginetest.Place {
		buckets++
		return &place{endpoints: strings.Split(etcd.Endpoints(), ","), bucket: fmt.Sprint("b", buckets)}
	})
}

// Servers that take too little are refused with the flag that they need; what they take bounds what a store takes.
func TestServersSayWhatTheyTake(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1, Args: []string{}})
	_, err := etcdengine.Connect(t.Context(), etcdengine.Config{Endpoints: []string{etcd.Endpoints()}})
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
	require.ErrorContains(t, err, "--max-txn-ops=1024")

	etcd = harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Args: []string{"--max-txn-ops=1024"}})
	cluster, err := etcdengine.Connect(t.Context(), etcdengine.Config{Endpoints: []string{etcd.Endpoints()}})
	require.NoError(t, err)
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

// place is a bucket in etcd.
type place struct {
	endpoints []string
	bucket    string
	cluster   *etcdengine.Cluster
}

func (p *place) Open(t require.TestingT) statestore.Engine {
	var err error
	p.cluster, err = etcdengine.Connect(ctx, etcdengine.Config{Endpoints: p.endpoints})
	require.NoError(t, err)
	engine, err := p.cluster.Engine(ctx, "dapr", p.bucket)
	require.NoError(t, err)
	return engine
}

func (p *place) Close(t require.TestingT) { require.NoError(t, p.cluster.Close()) }

// Count returns nil: entries in time order stay until their instants have come.
func (p *place) Count(require.TestingT) map[byte]int { return nil }

// CheckIndexes does nothing: the queries of the suite compare what they find.
func (p *place) CheckIndexes(require.TestingT) {}
