package cluster_test

import (
	"path/filepath"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// bolts starts two processes, each with a client whose component init initializes.
func bolts(t *testing.T, h *harness.Harness, init func(c *harness.Client) error) (processes []*harness.Bolt, clients []*harness.Client) {
	for _, name := range []string{"a", "b"} {
		bolt := harness.StartBolt(t, h, harness.BoltOptions{Name: name, DataDir: h.Dir("data-" + name), SocketDir: filepath.Join(h.SocketDir(), name)})
		c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "component")
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, init(c))
		processes, clients = append(processes, bolt), append(clients, c)
	}
	return processes, clients
}

// What one process has written, people see and change through another.
func TestStateInEtcdIsSeenFromAnyProcess(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	processes, clients := bolts(t, h, func(c *harness.Client) error {
		return c.InitState(t.Context(), "engine", "etcd", "endpoints", etcd.Endpoints(), "queryIndexes", "city", "database", "shop")
	})
	const database = "etcd-dapr-bolt-shop"
	run := func(result any, args ...string) error {
		return processes[1].Command(t.Context(), result, append([]string{"state", "--database", database}, args...)...)
	}
	for _, key := range []string{"cart||1", "cart||2", "cart||3", "orders||1"} {
		require.NoError(t, clients[0].Set(t.Context(), key, []byte(`{"city":"Rome"}`)))
	}
	_, err := clients[0].State.Set(t.Context(), &proto.SetRequest{
		Key: "brief", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": "3600", "idempotencyKey": "once", "contentType": "text/plain"},
	})
	require.NoError(t, err)

	var keys admin.KeyPage
	require.NoError(t, run(&keys, "list", "cart||", "--limit", "2"))
	require.Len(t, keys.Keys, 2)
	require.Equal(t, "cart||2", keys.Next)
	require.NoError(t, run(&keys, "list", "cart||", "--after", keys.Next))
	require.Len(t, keys.Keys, 1)
	require.Equal(t, "cart||3", keys.Keys[0].Key)
	var apps admin.Apps
	require.NoError(t, run(&apps, "apps"))
	require.Equal(t, []string{"cart", "orders"}, apps.Apps)
	var value admin.Value
	require.NoError(t, run(&value, "get", "brief"))
	require.JSONEq(t, `"v"`, string(value.Data))
	require.Equal(t, "text/plain", value.ContentType)
	require.NotNil(t, value.Expires)
	var remembered admin.IdempotencyPage
	require.NoError(t, run(&remembered, "idempotency-keys"))
	require.Len(t, remembered.Keys, 1)
	require.True(t, remembered.Keys[0].Expires.After(*value.Expires))

	require.Eventually(t, func() bool {
		var info admin.StateInfo
		return run(&info, "indexes") == nil && len(info.Indexes) == 1 && info.Indexes[0].Complete
	}, waitLong, waitStep)
	var found admin.QueryResult
	require.NoError(t, run(&found, "query", `{"filter":{"EQ":{"city":"Rome"}}}`))
	require.Len(t, found.Items, 4)
	require.Equal(t, "city", found.Index)

	// A change needs the version, and both processes take it.
	require.NoError(t, run(&value, "get", "cart||1"))
	require.Error(t, run(nil, "set", "cart||1", "new", "--etag", "1-a"))
	require.NoError(t, run(nil, "set", "cart||1", "new", "--etag", value.ETag))
	got, err := clients[0].Get(t.Context(), "cart||1")
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	require.NoError(t, run(nil, "delete", "cart||2", "--force"))

	var overview admin.Overview
	require.NoError(t, processes[1].Command(t.Context(), &overview, "overview"))
	require.Len(t, overview.Sidecars, 1)
	require.Equal(t, database, overview.Sidecars[0].Database)
	var buckets admin.Buckets
	require.NoError(t, processes[1].Command(t.Context(), &buckets, "buckets"))
	require.Contains(t, buckets.State, admin.Bucket{Database: database, Name: "state"})

	// A sidecar works on the bucket; when it is gone, the bucket can go.
	remove := []string{"buckets", "remove", "state", "state", "--database", database, "--yes"}
	require.ErrorContains(t, processes[1].Command(t.Context(), nil, remove...), "works on it")
	require.NoError(t, clients[1].Close())
	require.Eventually(t, func() bool { return processes[1].Command(t.Context(), nil, remove...) == nil }, waitLong, waitStep)
	require.NoError(t, run(&keys, "list"))
	require.Empty(t, keys.Keys)
	require.NoError(t, run(&remembered, "idempotency-keys"))
	require.Empty(t, remembered.Keys)
	_, err = clients[0].State.Set(t.Context(), &proto.SetRequest{Key: "x", Value: []byte(`{"city":"Oslo"}`), Etag: nil})
	require.NoError(t, err, "writers go on")
	require.NoError(t, run(&found, "query", `{"filter":{"EQ":{"city":"Oslo"}}}`))
	require.Len(t, found.Items, 1)
}
