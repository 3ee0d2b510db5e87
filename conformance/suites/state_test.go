package suites

import (
	"slices"
	"testing"

	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/components-contrib/state"
	suite "github.com/dapr/components-contrib/tests/conformance/state"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
)

const (
	stateSubTests       = 27
	stateExpirySubTests = 31
)

func TestStateOverTheSocket(t *testing.T) {
	official(t, "state suite, over the socket", stateSubTests, func(t *testing.T) {
		store := newSocketStore(startProcess(t))
		stateSuite(t, store)
		require.Equal(t, map[string]int{"BulkSet": 1, "BulkDelete": 1}, store.restored, "what the adapter lost and this test restored")
	})
}

func TestStateExpiryOverTheSocket(t *testing.T) {
	official(t, "state suite with ttlExpireTime, over the socket", stateExpirySubTests, func(t *testing.T) {
		stateExpirySuite(t, newSocketStore(startProcess(t)))
	})
}

func TestStateOnEtcdOverTheSocket(t *testing.T) {
	official(t, "state suite on etcd, over the socket", stateSubTests, func(t *testing.T) {
		store := newSocketStore(startProcess(t))
		stateSuite(t, store, startEtcd(t)...)
		require.Equal(t, map[string]int{"BulkSet": 1, "BulkDelete": 1}, store.restored, "what the adapter lost and this test restored")
	})
}

func TestStateExpiryOnEtcdOverTheSocket(t *testing.T) {
	official(t, "state suite with ttlExpireTime on etcd, over the socket", stateExpirySubTests, func(t *testing.T) {
		stateExpirySuite(t, newSocketStore(startProcess(t)), startEtcd(t)...)
	})
}

// startEtcd returns the metadata of a store on three servers.
func startEtcd(t *testing.T) []string {
	t.Helper()
	etcd := harness.StartEtcd(t, harness.ForTest(t), harness.ClusterOptions{})
	return etcd.Metadata()
}

// stateSuite runs the suite with every operation that the store supports, and settings in pairs of key and value.
func stateSuite(t *testing.T, store *socketStore, settings ...string) {
	t.Helper()
	runState(t, store, settings, "transaction", "etag", "first-write", "query", "ttl", "actorStateStore")
}

// stateExpirySuite runs the suite's sub-tests of ttlExpireTime. They stand in the branch for stores that do not list the
// ttl operation (components-contrib v1.18.3, tests/conformance/state/state.go), so that stateSuite cannot reach them. That
// branch also demands that the store does not claim the feature: this is all that hiddenTTL hides.
func stateExpirySuite(t *testing.T, store *socketStore, settings ...string) {
	t.Helper()
	runState(t, hiddenTTL{store}, settings, "transaction", "etag", "first-write", "query", "actorStateStore")
}

func runState(t *testing.T, store state.Store, settings []string, operations ...string) {
	t.Helper()
	properties := make(map[string]string)
	for i := 0; i+1 < len(settings); i += 2 {
		properties[settings[i]] = settings[i+1]
	}
	config, err := suite.NewTestConfig(component.DefaultName, operations, nil)
	require.NoError(t, err)
	suite.ConformanceTests(t, properties, store, config)
	require.NoError(t, store.Close())
}

type hiddenTTL struct{ *socketStore }

func (s hiddenTTL) Features() []state.Feature {
	return slices.DeleteFunc(slices.Clone(s.socketStore.Features()), func(f state.Feature) bool { return f == state.FeatureTTL })
}

// The suite's two demands on a bulk write with one wrong ETag, which socketStore has to help with, hold without help for
// everything but the form of the error. This is what arrives.
func TestBulkETagErrorOverTheSocket(t *testing.T) {
	store := newSocketStore(startProcess(t))
	require.NoError(t, store.Init(t.Context(), state.Metadata{Base: metadata.Base{Name: "store"}}))
	defer func() { require.NoError(t, store.Close()) }()
	ctx := t.Context()
	set := func(key, value string, etag *string) state.SetRequest {
		return state.SetRequest{Key: key, Value: []byte(value), ETag: etag}
	}
	get := func(key string) *state.GetResponse {
		got, err := store.Get(ctx, &state.GetRequest{Key: key})
		require.NoError(t, err)
		return got
	}
	// wrong is the ETag of no version of any key.
	wrong := "bad-etag"
	arrives := func(err error, key string) {
		t.Helper()
		var mismatch *state.ETagError
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, state.ETagMismatch, mismatch.Kind())
		require.ErrorContains(t, err, `key "`+key+`": etag "bad-etag" does not match: the key has etag "`+*get(key).ETag+`"`)
		_, joined := err.(interface{ Unwrap() []error })
		require.False(t, joined, "the runtime's adapter has learnt to carry more than one error: do without socketStore's help")
		var item state.BulkStoreError
		require.NotErrorAs(t, err, &item, "the runtime's adapter has learnt to carry the key: do without socketStore's help")
	}

	require.NoError(t, store.adapter.BulkSet(ctx, []state.SetRequest{set("a", "1", nil), set("b", "1", nil), set("c", "1", nil)}, state.BulkStoreOpts{}))
	arrives(store.adapter.BulkSet(ctx, []state.SetRequest{set("a", "2", &wrong), set("b", "2", get("b").ETag)}, state.BulkStoreOpts{}), "a")
	require.Equal(t, "1", string(get("a").Data))
	require.Equal(t, "2", string(get("b").Data))

	arrives(store.adapter.BulkDelete(ctx, []state.DeleteRequest{{Key: "a", ETag: get("a").ETag}, {Key: "b", ETag: &wrong}}, state.BulkStoreOpts{}), "b")
	require.Nil(t, get("a").Data)
	require.Equal(t, "2", string(get("b").Data))

	err := store.adapter.BulkSet(ctx, []state.SetRequest{set("b", "3", &wrong), set("c", "3", &wrong)}, state.BulkStoreOpts{})
	arrives(err, "b")
	require.Equal(t, "2", string(get("b").Data))
	require.Equal(t, "1", string(get("c").Data))
}
