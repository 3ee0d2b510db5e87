package e2e_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func saved(key, value string, metadata ...string) []*common.StateItem {
	return []*common.StateItem{{Key: key, Value: []byte(value), Metadata: harness.Pairs(metadata)}}
}

// What a sidecar passes on unchanged comes back byte for byte. It changes JSON itself wherever it decodes it: in every
// value of an HTTP request, and in values whose metadata say that they are JSON.
func TestValuesThroughTheSidecar(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.sidecar("app", "app", nil)
	e.ready(d)
	api := e.api(d)
	get := func(t *testing.T, key string) string {
		t.Helper()
		overGRPC, err := api.GetState(t.Context(), &runtime.GetStateRequest{StoreName: storeName, Key: key})
		require.NoError(t, err)
		overHTTP := e.in(t).call(d, http.MethodGet, "/v1.0/state/"+storeName+"/"+key, nil)
		require.NoError(t, overHTTP.OK())
		require.Equal(t, string(overGRPC.GetData()), string(overHTTP.Body), "the same over gRPC and over HTTP")
		return string(overGRPC.GetData())
	}
	const document = "{ \"z\": 12345678901234567890,\n\t\"a\": 1.10, \"a\": 1e400, \"\\u0061\": \"\\u00e9\" }\n"

	for i, value := range []string{document, "12345678901234567890", "not { json", "\x00\x01\xff\xfe", " ", `"text"`, "null", "\u2028\ufeff"} {
		t.Run(fmt.Sprintf("%q as it is", value), func(t *testing.T) {
			key := "value-" + strconv.Itoa(i)
			_, err := api.SaveState(t.Context(), &runtime.SaveStateRequest{StoreName: storeName, States: saved(key, value)})
			require.NoError(t, err)
			require.Equal(t, value, get(t, key))

			key = "transaction-" + strconv.Itoa(i)
			_, err = api.ExecuteStateTransaction(t.Context(), &runtime.ExecuteStateTransactionRequest{
				StoreName:  storeName,
				Operations: []*runtime.TransactionalStateOperation{{OperationType: "upsert", Request: saved(key, value)[0]}},
			})
			require.NoError(t, err)
			require.Equal(t, value, get(t, key))
		})
	}
	t.Run("a string in an HTTP request", func(t *testing.T) {
		body := `[{"key":"string","value":"{ \"z\": 12345678901234567890 }"}]`
		require.NoError(t, e.in(t).call(d, http.MethodPost, "/v1.0/state/"+storeName, []byte(body)).OK())
		require.Equal(t, `"{ \"z\": 12345678901234567890 }"`, get(t, "string"))
	})

	// From here on: what the sidecar makes of it before it reaches us.
	const decoded = `{"a":1.1,"z":12345678901234567000}`
	t.Run("JSON in an HTTP request is decoded by the sidecar", func(t *testing.T) {
		body := `[{"key":"http","value":{ "z": 12345678901234567890, "a": 1.10 }}]`
		require.NoError(t, e.in(t).call(d, http.MethodPost, "/v1.0/state/"+storeName, []byte(body)).OK())
		require.Equal(t, decoded, get(t, "http"))
	})
	t.Run("JSON that is said to be JSON is decoded by the sidecar", func(t *testing.T) {
		_, err := api.SaveState(t.Context(), &runtime.SaveStateRequest{
			StoreName: storeName, States: saved("said", `{ "z": 12345678901234567890, "a": 1.10 }`, "contentType", "application/json"),
		})
		require.NoError(t, err)
		require.Equal(t, decoded, get(t, "said"))
	})
}
