package e2e_test

import (
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/reference"
)

var update = flag.Bool("update", false, "write the table of refusals into the configuration reference instead of comparing it")

// refusal is a row of the reference's table, and what brings it about.
type refusal struct {
	what string
	http int
	grpc codes.Code
	// note stands behind both codes in the reference.
	note  string
	tries []try
}

// try is one call, over each of the sidecar's APIs (nil: there is none for it), and what the error must say.
type try struct {
	name     string
	overHTTP func(e *env, d *harness.Daprd) harness.Response
	// overGRPC returns what the answer says of single keys beside the error.
	overGRPC func(e *env, api runtime.DaprClient) (string, error)
	text     []string
}

// saying adds what the errors must contain.
func (t try) saying(text ...string) try { t.text = text; return t }

// Sizes that are refused.
var (
	fiveMiB = strings.Repeat("x", 5<<20)
	longKey = strings.Repeat("k", 17<<10)
)

const notAllowedTTL = `ttlInSeconds "-5"`

var (
	wrongETag  = func(i *common.StateItem) { i.Etag = &common.Etag{Value: "wrong"} }
	firstWrite = func(i *common.StateItem) {
		i.Options = &common.StateOptions{Concurrency: common.StateOptions_CONCURRENCY_FIRST_WRITE}
	}
)

func with(key, value string) func(i *common.StateItem) {
	return func(i *common.StateItem) { i.Metadata = map[string]string{key: value} }
}

func item(key string, with ...func(*common.StateItem)) *common.StateItem {
	i := &common.StateItem{Key: key, Value: []byte(`"value"`)}
	for _, set := range with {
		set(i)
	}
	return i
}

// refusals are what an app can be refused. The reference has the same table.
var refusals = []refusal{
	{
		"a set or delete whose ETag is not the key's; a first-write of a key that is there", 409, codes.Aborted, "", []try{
			save(item("key", wrongETag)).saying(`"app||key"`, `etag "wrong" does not match: the key has etag`),
			save(item("key", firstWrite)).saying(`"app||key"`, "a first-write without an etag is allowed only on a new key"),
			save(item("key", wrongETag), item("taken on its own")).saying(`"app||key"`, `etag "wrong" does not match`),
			erase("key", "wrong").saying(`"app||key"`, `etag "wrong" does not match`),
			bulkDelete("key", "wrong").saying(`"app||key"`, `etag "wrong" does not match`),
		},
	},
	{
		"what is not allowed in a set, delete or get, such as a key over 16 KiB", 400, codes.InvalidArgument, "", []try{
			save(item("key", with("ttlInSeconds", "-5"))).saying(notAllowedTTL, "a whole number of seconds from 1 to", "-1 for no end"),
			save(item("taken on its own"), item("key", with("ttlInSeconds", "-5"))).saying(notAllowedTTL),
			save(item("key", wrongETag), item("new", with("ttlInSeconds", "-5"))).saying(notAllowedTTL, `etag "wrong" does not match`),
			save(item(longKey)).saying(`key "app||kkk`, "1 to 16384 bytes"),
			save(item("key", with("idempotencyKey", longKey))).saying(`idempotencyKey "app||kkk`, "at most 1024 bytes"),
			save(item("key", with("contentType", longKey))).saying(`contentType "kkk`, "at most 1024 bytes"),
			try{name: "get", overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
				_, err := api.GetState(e.t.Context(), &runtime.GetStateRequest{StoreName: storeName, Key: longKey})
				return "", err
			}}.saying(`key "app||kkk`, "1 to 16384 bytes"),
			bulkDelete(longKey, "1").saying(`key "app||kkk`, "1 to 16384 bytes"),
			bulkGet(manyLongKeys()...).saying("400 keys", "ask for fewer at once"),
		},
	},
	{
		"a key that is empty or has `||` in it (by Dapr itself)", 400, codes.InvalidArgument, "", []try{
			save(item("")).saying("key"),
			save(item("a||b")).saying("a||b"),
			transact(nil, operation(upsert, "a||b", `"value"`)).saying("a||b"),
		},
	},
	{
		"a value of more than 4128768 bytes: no sidecar could read it back", 413, codes.InvalidArgument, "", []try{
			save(item("key", func(i *common.StateItem) { i.Value = []byte(`"` + fiveMiB + `"`) })).saying(`"app||key"`, "5242882 bytes", "at most 4128768 bytes"),
		},
	},
	{
		"one key of a bulk get that is wrong, or does not fit into the answer of 4 MiB", 200, codes.OK, ", with an `error` beside the key", []try{
			bulkGet("key", longKey).saying(`key \"app||kkk`, "1 to 16384 bytes"),
		},
	},
	{
		"a transaction, whatever is wrong with it: an ETag, a value, its size in bytes, …", 500, codes.Internal, "", []try{
			transact(nil, operation(upsert, "new", `"value"`), &runtime.TransactionalStateOperation{OperationType: upsert, Request: item("key", wrongETag)}).saying(`"app||key"`, `etag "wrong" does not match`),
			transact(nil, operation(upsert, "new", `"value"`), &runtime.TransactionalStateOperation{OperationType: upsert, Request: item("key", firstWrite)}).saying(`"app||key"`, "a first-write"),
			transact(nil, operation(upsert, "new", `"value"`), &runtime.TransactionalStateOperation{OperationType: upsert, Request: item("key", with("ttlInSeconds", "-5"))}).saying("operations[1]", notAllowedTTL),
			transact(nil, operation(upsert, "new", `"value"`), operation(upsert, "key", `"`+fiveMiB+`"`)).saying(`"app||key"`, "at most 4128768 bytes"),
			transact(nil, operation(upsert, "new", `"value"`), &runtime.TransactionalStateOperation{OperationType: upsert, Request: item("key", with("idempotencyKey", "id"))}).saying("operations[1].idempotencyKey", "for a transaction as a whole"),
			transact(map[string]string{"idempotencyKey": longKey}, operation(upsert, "new", `"value"`)).saying("idempotencyKey", "at most 1024 bytes"),
		},
	},
	{
		"a transaction of more than 50000 operations; as many items of a bulk call under one `idempotencyKey`", 400, codes.InvalidArgument, "", []try{
			transact(nil, manyOperations(50_001)...).saying("50001 operations", "50000"),
			save(slices.Repeat([]*common.StateItem{item("new", with("idempotencyKey", "id"))}, 50_001)...).saying("50001 of them", "at most 50000 in one transaction"),
		},
	},
	{
		"a publish, whatever is wrong with it: its metadata, topic or size (at most 4190208 bytes), a full topic", 500, codes.Internal, "", []try{
			publish("topic", "x", "ttlInSeconds", "-5").saying(notAllowedTTL, "a whole number of seconds from 1 to"),
			publish("topic", "x", "deliverAfter", "later").saying(`deliverAfter "later"`, "a duration of 0 or more"),
			publish("topic", "x", "deliverAt", "later").saying(`deliverAt "later"`, "RFC 3339"),
			publish("topic", "x", "deliverAfter", "1h", "ttlInSeconds", "60").saying(`ttlInSeconds "60"`, "longer than the event is held back"),
			publish("a\nb", "x").saying(`topic "a`, "without control characters"),
			publish("a.>", "x").saying("topic", "without the wildcards"),
			publish(strings.Repeat("t", 513), "x").saying("topic", "1 to 512 bytes"),
			publish("topic", fiveMiB).saying("too large", "at most 4190208"),
			publish("topic", fiveMiB[:2<<20]).saying("the topic is full", `"topic"`, "maxBytes is 1000000"),
		},
	},
	{
		"a bulk publish, if anything is wrong with any of its events", 500, codes.Internal, "", []try{
			bulkPublish("topic", "x", "ttlInSeconds", "-5").saying(`entry "bad"`, notAllowedTTL),
			bulkPublish("a.>", "x").saying("topic", "without the wildcards"),
			bulkPublish("topic", fiveMiB).saying(`entry "bad"`, "too large", "at most 4190208"),
			bulkPublish("topic", "x", "long", fiveMiB[:64<<10]).saying(`entry "bad"`, "invalid metadata", "at most 1000 entries and 65536 bytes"),
		},
	},
	{
		"a query whose filter is none (by Dapr itself)", 500, codes.Internal, "", []try{
			query(`{"filter":{"EQ":{"a":1,"b":2}}}`),
			query(`{"filter":{"IN":{"a":1}}}`),
			query(`{"filter":{"XX":{"a":1}}}`).saying("XX"),
		},
	},
	{
		"what else is not allowed in a query: a token, the limit or the sort of a page, …", 400, codes.InvalidArgument, "", []try{
			query(`{"filter":{"EQ":{"a":1}},"page":{"token":"mine"}}`).saying(`token "mine"`, "one that the page before came with"),
			query(`{"filter":{"EQ":{"a":1}},"page":{"limit":-1}}`).saying("limit"),
			query(`{"filter":{"EQ":{"a":1}},"sort":[{"key":""}]}`).saying("sort"),
		},
	},
	{
		"a store that is not among the sidecar's components (by Dapr itself)", 400, codes.InvalidArgument, "", []try{
			{
				name: "set",
				overHTTP: func(e *env, d *harness.Daprd) harness.Response {
					return e.call(d, http.MethodPost, "/v1.0/state/other", []map[string]any{{"key": "key", "value": 1}})
				},
				overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
					_, err := api.SaveState(e.t.Context(), &runtime.SaveStateRequest{StoreName: "other", States: []*common.StateItem{item("key")}})
					return "", err
				},
			},
		},
	},
	{
		"a pub/sub that is not among them, or a topic without a name (by Dapr itself)", 404, codes.InvalidArgument, "", []try{
			publish("", "x"),
			{
				name: "publish",
				overHTTP: func(e *env, d *harness.Daprd) harness.Response {
					return e.call(d, http.MethodPost, "/v1.0/publish/other/topic", 1)
				},
				overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
					_, err := api.PublishEvent(e.t.Context(), &runtime.PublishEventRequest{PubsubName: "other", Topic: "topic"})
					return "", err
				},
			},
		},
	},
	{
		"a request of more bytes than the sidecar's `--max-body-size`, by default 4Mi (by Dapr itself)", 400, codes.ResourceExhausted, "", []try{
			save(item("key", func(i *common.StateItem) { i.Value = []byte(`"` + strings.Repeat("x", 17<<20) + `"`) })),
		},
	},
	whileDown,
}

// whileDown is tried when dapr-bolt was killed.
var whileDown = refusal{
	"anything, while `dapr-bolt` is not running", 500, codes.Internal, "", []try{
		save(item("key")).saying("code = Unavailable"),
		erase("key", "").saying("code = Unavailable"),
		transact(nil, operation(upsert, "key", `"value"`)).saying("code = Unavailable"),
		publish("topic", "x").saying("code = Unavailable"),
		{
			name: "get",
			overHTTP: func(e *env, d *harness.Daprd) harness.Response {
				return e.call(d, http.MethodGet, "/v1.0/state/"+storeName+"/key", nil)
			},
			overGRPC: func(e *env, api runtime.DaprClient) (string, error) {
				_, err := api.GetState(e.t.Context(), &runtime.GetStateRequest{StoreName: storeName, Key: "key"})
				return "", err
			},
		},
	},
}

// Every row of the reference's table is what an app sees.
func TestRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.daprd(harness.DaprdOptions{}, storeComponent(), pubsubComponent("maxBytes", "1M"))
	e.ready(d)
	api := e.api(d)
	_, err := api.SaveState(t.Context(), &runtime.SaveStateRequest{StoreName: storeName, States: []*common.StateItem{item("key")}})
	require.NoError(t, err)
	_, err = api.PublishEvent(t.Context(), &runtime.PublishEventRequest{PubsubName: pubsubName, Topic: "topic", Data: []byte("x")})
	require.NoError(t, err)

	for _, refused := range refusals {
		if refused.what == whileDown.what {
			e.bolt.Kill()
		}
		for i, try := range refused.tries {
			t.Run(fmt.Sprintf("%s: %s %d", refused.what, try.name, i), func(t *testing.T) {
				e := e.in(t)
				says := func(text string) {
					t.Helper()
					for _, part := range try.text {
						require.Contains(t, text, part)
					}
				}
				if try.overHTTP != nil {
					r := try.overHTTP(e, d)
					require.Equal(t, refused.http, r.Status, "over HTTP: %.500s", r.Body)
					text := string(r.Body)
					if refused.http != http.StatusOK {
						text = strings.NewReplacer(`\"`, `"`, `\u003e`, ">").Replace(text)
					}
					says(text)
				}
				answer, err := try.overGRPC(e, api)
				require.Equal(t, refused.grpc, status.Code(err), "over gRPC: %.500v", err)
				if err != nil {
					answer = err.Error()
				}
				says(answer)
			})
		}
	}
	require.NoError(t, e.bolt.Restart(t.Context()))
}

// TestReferenceOfRefusals holds the reference's table to the one above.
func TestReferenceOfRefusals(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("\n| what | HTTP | gRPC |\n| --- | --- | --- |\n")
	for _, r := range refusals {
		fmt.Fprintf(&table, "| %s | %d%s | `%s`%s |\n", r.what, r.http, r.note, r.grpc, r.note)
	}
	reference.Check(t, checkout.Path("docs", "configuration.md"), "refused", table.String(), *update, "go -C conformance test ./e2e -run TestReferenceOfRefusals -update")
}
