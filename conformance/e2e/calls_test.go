package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// httpItem is the item as the HTTP API takes it.
func httpItem(i *common.StateItem) map[string]any {
	m := map[string]any{"key": i.GetKey(), "value": json.RawMessage(i.GetValue()), "metadata": i.GetMetadata()}
	if i.GetEtag() != nil {
		m["etag"] = i.GetEtag().GetValue()
	}
	if i.GetOptions() != nil {
		m["options"] = map[string]string{"concurrency": "first-write"}
	}
	return m
}

func save(items ...*common.StateItem) try {
	return try{
		name: "set",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			var body []map[string]any
			for _, i := range items {
				body = append(body, httpItem(i))
			}
			return e.call(d, http.MethodPost, "/v1.0/state/"+storeName, body)
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.SaveState(e.t.Context(), &runtime.SaveStateRequest{StoreName: storeName, States: items})
			return "", err
		},
	}
}

func erase(key, etag string) try {
	return try{
		name: "delete",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			return e.call(d, http.MethodDelete, "/v1.0/state/"+storeName+"/"+key, nil, "If-Match", etag)
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.DeleteState(e.t.Context(), &runtime.DeleteStateRequest{StoreName: storeName, Key: key, Etag: &common.Etag{Value: etag}})
			return "", err
		},
	}
}

func bulkDelete(key, etag string) try {
	return try{name: "bulk delete", overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
		_, err := api.DeleteBulkState(e.t.Context(), &runtime.DeleteBulkStateRequest{StoreName: storeName, States: []*common.StateItem{
			{Key: "not there"}, {Key: key, Etag: &common.Etag{Value: etag}},
		}})
		return "", err
	}}
}

func bulkGet(keys ...string) try {
	return try{
		name: "bulk get",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			return e.call(d, http.MethodPost, "/v1.0/state/"+storeName+"/bulk", map[string]any{"keys": keys})
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			answer, err := api.GetBulkState(e.t.Context(), &runtime.GetBulkStateRequest{StoreName: storeName, Keys: keys})
			if err != nil {
				return "", err
			}
			raw, err := json.Marshal(answer.GetItems())
			return string(raw), err
		},
	}
}

// manyLongKeys are too much for an answer, whatever is stored under them.
func manyLongKeys() (keys []string) {
	for i := range 400 {
		keys = append(keys, longKey[:15<<10]+strconv.Itoa(i))
	}
	return keys
}

func manyOperations(n int) (operations []*runtime.TransactionalStateOperation) {
	for i := range n {
		operations = append(operations, operation(upsert, "many-"+strconv.Itoa(i), "1"))
	}
	return operations
}

func transact(metadata map[string]string, operations ...*runtime.TransactionalStateOperation) try {
	return try{
		name: "transaction",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			var list []map[string]any
			for _, o := range operations {
				list = append(list, map[string]any{"operation": o.GetOperationType(), "request": httpItem(o.GetRequest())})
			}
			return e.call(d, http.MethodPost, "/v1.0/state/"+storeName+"/transaction", map[string]any{"operations": list, "metadata": metadata})
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.ExecuteStateTransaction(e.t.Context(), &runtime.ExecuteStateTransactionRequest{StoreName: storeName, Operations: operations, Metadata: metadata})
			return "", err
		},
	}
}

func publish(topic, data string, metadata ...string) try {
	return try{
		name: "publish",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			values := url.Values{}
			for i := 0; i+1 < len(metadata); i += 2 {
				values.Set("metadata."+metadata[i], metadata[i+1])
			}
			return e.call(d, http.MethodPost, "/v1.0/publish/"+pubsubName+"/"+url.PathEscape(topic)+"?"+values.Encode(), data)
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.PublishEvent(e.t.Context(), &runtime.PublishEventRequest{PubsubName: pubsubName, Topic: topic, Data: []byte(data), Metadata: harness.Pairs(metadata)})
			return "", err
		},
	}
}

func bulkPublish(topic, data string, metadata ...string) try {
	return try{
		name: "bulk publish",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			return e.call(d, http.MethodPost, "/v1.0/publish/bulk/"+pubsubName+"/"+url.PathEscape(topic), []map[string]any{
				{"entryId": "good", "event": "x", "contentType": "text/plain"},
				{"entryId": "bad", "event": data, "contentType": "text/plain", "metadata": harness.Pairs(metadata)},
			})
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.BulkPublishEvent(e.t.Context(), &runtime.BulkPublishRequest{PubsubName: pubsubName, Topic: topic, Entries: []*runtime.BulkPublishRequestEntry{
				{EntryId: "good", Event: []byte("x"), ContentType: "text/plain"},
				{EntryId: "bad", Event: []byte(data), ContentType: "text/plain", Metadata: harness.Pairs(metadata)},
			}})
			return "", err
		},
	}
}

func query(text string) try {
	return try{
		name: "query",
		overHTTP: func(e *env, d *harness.Daprd) harness.Response {
			return e.call(d, http.MethodPost, "/v1.0-alpha1/state/"+storeName+"/query", []byte(text))
		},
		overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
			_, err := api.QueryStateAlpha1(e.t.Context(), &runtime.QueryStateRequest{StoreName: storeName, Query: text})
			return "", err
		},
	}
}
