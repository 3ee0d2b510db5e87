package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	upsert = "upsert"
	remove = "delete"
)

func operation(kind, key, value string) *runtime.TransactionalStateOperation {
	return &runtime.TransactionalStateOperation{OperationType: kind, Request: &common.StateItem{Key: key, Value: []byte(value)}}
}

// maxSize is what dapr-bolt tells sidecars of the size of transactions.
func (e *env) maxSize() int {
	e.t.Helper()
	c := e.client(storeName)
	require.NoError(e.t, c.InitState(e.t.Context()))
	answer, err := proto.NewTransactionalStoreMultiMaxSizeClient(c.Conn).MultiMaxSize(e.t.Context(), &proto.MultiMaxSizeRequest{})
	require.NoError(e.t, err)
	return int(answer.GetMaxSize())
}

// The number of operations that dapr-bolt names as the most is taken, and takes effect in order; one more is refused, and
// nothing of it takes effect.
func TestATransactionAsLargeAsThereMayBe(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.daprd(harness.DaprdOptions{}, storeComponent(), pubsubComponent())
	e.ready(d)
	api := e.api(d)
	size := e.maxSize()
	require.GreaterOrEqual(t, size, 10_000)

	get := func(key string) string {
		answer, err := api.GetState(t.Context(), &runtime.GetStateRequest{StoreName: storeName, Key: key})
		require.NoError(t, err)
		return string(answer.GetData())
	}
	transact := func(operations []*runtime.TransactionalStateOperation) error {
		_, err := api.ExecuteStateTransaction(t.Context(), &runtime.ExecuteStateTransactionRequest{StoreName: storeName, Operations: operations})
		return err
	}

	// Set then delete, delete then set, and set twice, of keys that lie far apart in it.
	var operations []*runtime.TransactionalStateOperation
	operations = append(operations, operation(upsert, "set then deleted", "x"), operation(remove, "deleted then set", ""), operation(upsert, "set twice", "first"))
	for i := len(operations) + 3; i < size; i++ {
		operations = append(operations, operation(upsert, fmt.Sprintf("key-%d", i), fmt.Sprint(i)))
	}
	operations = append(operations, operation(remove, "set then deleted", ""), operation(upsert, "deleted then set", "x"), operation(upsert, "set twice", "second"))
	require.Len(t, operations, size)
	began := time.Now()
	require.NoError(t, transact(operations))
	fmt.Printf("a transaction of %d operations through the sidecar took %s\n", size, time.Since(began).Round(time.Millisecond))
	require.Empty(t, get("set then deleted"))
	require.Equal(t, "x", get("deleted then set"))
	require.Equal(t, "second", get("set twice"))
	stored := func() (n int) {
		for start := 6; start < size; start += 1000 {
			var keys []string
			for i := start; i < min(start+1000, size); i++ {
				keys = append(keys, fmt.Sprintf("key-%d", i))
			}
			answer, err := api.GetBulkState(t.Context(), &runtime.GetBulkStateRequest{StoreName: storeName, Keys: keys})
			require.NoError(t, err)
			for _, item := range answer.GetItems() {
				require.Empty(t, item.GetError())
				if len(item.GetData()) > 0 {
					require.Equal(t, strings.TrimPrefix(item.GetKey(), "key-"), string(item.GetData()))
					n++
				}
			}
		}
		return n
	}
	require.Equal(t, size-6, stored())

	// The ETag of the last operation is wrong: of the others, nothing remains.
	all := make([]*runtime.TransactionalStateOperation, size)
	for i := range all {
		all[i] = operation(remove, fmt.Sprintf("key-%d", i), "")
	}
	all[size-1] = operation(upsert, "set twice", "third")
	all[size-1].Request.Etag = &common.Etag{Value: "wrong"}
	require.ErrorContains(t, transact(all), "wrong")
	require.Equal(t, size-6, stored(), "after a transaction that was refused for its last operation")

	all[size-1] = operation(remove, fmt.Sprintf("key-%d", size-1), "")
	tooMany := append(all[:size:size], operation(upsert, "one too many", "x"))
	err := transact(tooMany)
	require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	require.ErrorContains(t, err, fmt.Sprintf("%d", size), "the error says how many are allowed")
	require.Empty(t, get("one too many"))
	require.Equal(t, size-6, stored(), "after a transaction that was refused for its size")

	require.NoError(t, transact(all))
	require.Zero(t, stored())
}

// A bulk get that asks for more than a sidecar can be given in one answer: every value arrives or carries its own error,
// and what carries one can be had on its own.
func TestABulkGetOfMoreThanAnAnswerHolds(t *testing.T) {
	t.Parallel()
	const values, size = 100, 100 << 10
	e := newEnv(t)
	d := e.daprd(harness.DaprdOptions{}, storeComponent(), pubsubComponent())
	e.ready(d)
	api := e.api(d)
	var keys []string
	want := make(map[string][]byte)
	random := rand.NewChaCha8([32]byte{})
	for i := range values {
		raw := make([]byte, size*3/4-2)
		_, _ = random.Read(raw)
		// As JSON: the sidecar's HTTP API can give nothing else in a bulk.
		key, value := fmt.Sprintf("value-%03d", i), []byte(`"`+base64.StdEncoding.EncodeToString(raw)+`"`)
		keys, want[key] = append(keys, key), value
		_, err := api.SaveState(t.Context(), &runtime.SaveStateRequest{StoreName: storeName, States: []*common.StateItem{{Key: key, Value: value}}})
		require.NoError(t, err)
	}
	keys = append(keys, "missing")
	check := func(items map[string][]byte, errors map[string]string) {
		t.Helper()
		require.Len(t, items, values+1)
		arrived := 0
		for key, data := range items {
			if errors[key] != "" {
				require.Empty(t, data)
				require.Contains(t, errors[key], "limited to 4 MiB")
				require.Contains(t, errors[key], "get it on its own")
				continue
			}
			require.True(t, bytes.Equal(want[key], data), "the value of %s", key)
			arrived++
		}
		require.Empty(t, errors["missing"])
		require.Greater(t, arrived, 36, "values in an answer of 4 MiB")
		require.Less(t, arrived, values)
		fmt.Printf("of %d values of %d KiB, %d arrived and %d carried an error of their own\n", values, size>>10, arrived-1, len(errors))
	}

	t.Run("over gRPC, in a client with its default limits", func(t *testing.T) {
		answer, err := api.GetBulkState(t.Context(), &runtime.GetBulkStateRequest{StoreName: storeName, Keys: keys, Parallelism: 10})
		require.NoError(t, err)
		items, errors := make(map[string][]byte), make(map[string]string)
		for _, item := range answer.GetItems() {
			items[item.GetKey()] = item.GetData()
			if item.GetError() != "" {
				errors[item.GetKey()] = item.GetError()
			}
		}
		check(items, errors)
		for key := range errors {
			alone, err := api.GetState(t.Context(), &runtime.GetStateRequest{StoreName: storeName, Key: key})
			require.NoError(t, err)
			require.True(t, bytes.Equal(want[key], alone.GetData()), "the value of %s, on its own", key)
		}
	})
	t.Run("over HTTP", func(t *testing.T) {
		response, err := d.Call(t.Context(), http.MethodPost, "/v1.0/state/"+storeName+"/bulk", map[string]any{"keys": keys, "parallelism": 10})
		require.NoError(t, err)
		require.NoError(t, response.OK())
		var answer []struct {
			Key   string          `json:"key"`
			Data  json.RawMessage `json:"data"`
			Error string          `json:"error"`
		}
		require.NoError(t, response.JSON(&answer))
		items, errors := make(map[string][]byte), make(map[string]string)
		for _, item := range answer {
			items[item.Key] = item.Data
			if item.Error != "" {
				errors[item.Key] = item.Error
			}
		}
		check(items, errors)
	})
}
