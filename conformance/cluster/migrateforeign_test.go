package cluster_test

import (
	"slices"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A place that holds keys which are not of the migration is refused: the first of them is named, and nothing is changed.
func TestMigrateRefusesForeignState(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{Servers: 1})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	open := func(settings []string) *harness.Client {
		c, err := harness.Dial(boltSocket(bolt), "store")
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.InitState(t.Context(), settings...))
		return c
	}
	set := func(c *harness.Client, key, value string, metadata ...string) {
		_, err := c.State.Set(t.Context(), &proto.SetRequest{Key: key, Value: []byte(value), Metadata: harness.Pairs(metadata)})
		require.NoError(t, err)
	}
	source := []string{"database", "dapr"}
	mine := open(source)
	set(mine, "mine", "v")
	set(mine, "twice", "v", "idempotencyKey", "id1")

	cases := []struct {
		bucket, key, value string
		metadata           []string
		says               string
	}{
		{"key", "foreign", "v", nil, `key "foreign": it holds what the source does not`},
		{"value", "mine", "another", nil, `key "mine": it holds what the source does not`},
		{"expiry", "mine", "v", []string{"ttlInSeconds", "3600"}, `key "mine": it holds what the source does not`},
		{"idempotency", "mine", "v", []string{"idempotencyKey", "id2"}, "it holds what the source does not"},
		// It is remembered for longer than at the source.
		{"remembered", "twice", "v", []string{"idempotencyKey", "id1"}, "it holds what the source does not"},
	}
	places := map[string][]string{"file": {"database", "other"}, "etcd": etcd.Metadata()}
	place := func(name, bucket string) []string { return append(slices.Clone(places[name]), "bucket", bucket) }
	for name := range places {
		for _, of := range cases {
			set(open(place(name, of.bucket)), of.key, of.value, of.metadata...)
		}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoints()}})
	require.NoError(t, err)
	defer client.Close()
	open(place("etcd", "raw"))
	_, err = client.Put(t.Context(), "dapr-bolt/dapr/state/raw/valien", "who knows what")
	require.NoError(t, err)
	held := func() []*mvccpb.KeyValue {
		all, err := client.Get(t.Context(), "dapr-bolt/", clientv3.WithPrefix())
		require.NoError(t, err)
		return all.Kvs
	}
	require.NoError(t, bolt.Stop())

	before := held()
	for name := range places {
		for _, of := range cases {
			_, err := migrate(t, bolt, "state", source, place(name, of.bucket))
			require.ErrorContains(t, err, of.says, "%s, %s", name, of.bucket)
		}
	}
	_, err = migrate(t, bolt, "state", source, place("etcd", "raw"))
	require.ErrorContains(t, err, `value of key "alien"`)
	require.Equal(t, before, held())

	// What is told of is removed, and the keys are the source's alone.
	require.NoError(t, bolt.Restart(t.Context()))
	for name := range places {
		c := open(place(name, "key"))
		got, err := c.Get(t.Context(), "mine")
		require.NoError(t, err)
		require.Empty(t, got, "nothing was copied")
		_, err = c.State.Delete(t.Context(), &proto.DeleteRequest{Key: "foreign"})
		require.NoError(t, err)
	}
	require.NoError(t, bolt.Stop())
	for name := range places {
		result, err := migrate(t, bolt, "state", source, place(name, "key"))
		require.NoError(t, err)
		require.EqualValues(t, 2, result.State.Keys)
		require.EqualValues(t, 1, result.State.IdempotencyKeys)
	}
}
