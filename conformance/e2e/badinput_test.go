package e2e_test

import (
	"context"
	"net/http"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// kept is what stands in the store and in the topics; a call that was refused leaves it as it was.
type kept struct {
	Value, ETag string
	Absent      bool // of the keys that refused calls name
	Topics      []pubsub.TopicStats
}

// newKeys are those that calls which must be refused would set.
var newKeys = []string{"new", "app||new", ""}

func (e *env) kept(store *harness.Client, key string) kept {
	e.t.Helper()
	got, err := store.State.Get(e.t.Context(), &proto.GetRequest{Key: key})
	require.NoError(e.t, err)
	k := kept{Value: string(got.GetData()), ETag: got.GetEtag().GetValue(), Absent: true, Topics: e.topics()}
	items := make([]*proto.GetRequest, len(newKeys))
	for i, key := range newKeys {
		items[i] = &proto.GetRequest{Key: key}
	}
	answer, err := store.State.BulkGet(e.t.Context(), &proto.BulkGetRequest{Items: items})
	require.NoError(e.t, err)
	for _, item := range answer.GetItems() {
		k.Absent = k.Absent && item.GetEtag() == nil && len(item.GetData()) == 0
	}
	return k
}

func TestBadInputOverTheSocketIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	store, topics := e.client(storeName), e.client(pubsubName)
	require.NoError(t, store.InitState(t.Context()))
	require.NoError(t, topics.InitPubSub(t.Context(), "consumerID", "group"))
	_, err := store.State.Set(t.Context(), &proto.SetRequest{Key: "key", Value: []byte("value")})
	require.NoError(t, err)
	_, err = topics.PubSub.Publish(t.Context(), &proto.PublishRequest{Topic: "topic", Data: []byte("event")})
	require.NoError(t, err)
	before := e.kept(store, "key")

	set := func(r *proto.SetRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := store.State.Set(ctx, r); return err }
	}
	bulkSet := func(items ...*proto.SetRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := store.State.BulkSet(ctx, &proto.BulkSetRequest{Items: items})
			return err
		}
	}
	remove := func(r *proto.DeleteRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := store.State.Delete(ctx, r); return err }
	}
	transact := func(sets ...*proto.SetRequest) func(context.Context) error {
		r := &proto.TransactionalStateRequest{}
		for _, s := range sets {
			r.Operations = append(r.Operations, &proto.TransactionalStateOperation{Request: &proto.TransactionalStateOperation_Set{Set: s}})
		}
		return func(ctx context.Context) error { _, err := store.Transaction.Transact(ctx, r); return err }
	}
	publish := func(r *proto.PublishRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := topics.PubSub.Publish(ctx, r); return err }
	}
	bulkPublish := func(topic string, events ...*proto.BulkMessageEntry) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := topics.PubSub.BulkPublish(ctx, &proto.BulkPublishRequest{Topic: topic, Entries: events})
			return err
		}
	}
	ttl := map[string]string{"ttlInSeconds": "-5"}
	wrong := &proto.Etag{Value: "wrong"}
	firstWrite := &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	for name, test := range map[string]struct {
		call func(context.Context) error
		code codes.Code
		http string // the code that the runtime makes of it, where the answer says one
		text []string
	}{
		"set, ttlInSeconds -5":     {set(&proto.SetRequest{Key: "key", Value: []byte("x"), Metadata: ttl}), codes.InvalidArgument, "400", []string{`ttlInSeconds "-5"`, "-1 for no end"}},
		"set, empty key":           {set(&proto.SetRequest{Value: []byte("x")}), codes.InvalidArgument, "400", []string{"key", `""`}},
		"set, 5 MiB":               {set(&proto.SetRequest{Key: "key", Value: []byte(fiveMiB)}), codes.InvalidArgument, "413", []string{`"key"`, "5242880 bytes", "at most"}},
		"set, wrong etag":          {set(&proto.SetRequest{Key: "key", Value: []byte("x"), Etag: wrong}), codes.FailedPrecondition, "", []string{`"key"`, `"wrong"`}},
		"set, first-write":         {set(&proto.SetRequest{Key: "key", Value: []byte("x"), Options: firstWrite}), codes.FailedPrecondition, "", []string{`"key"`, "first-write"}},
		"bulk set, one empty key":  {bulkSet(&proto.SetRequest{Value: []byte("x")}), codes.InvalidArgument, "400", []string{"key", `""`}},
		"delete, empty key":        {remove(&proto.DeleteRequest{}), codes.InvalidArgument, "400", []string{"key", `""`}},
		"delete, wrong etag":       {remove(&proto.DeleteRequest{Key: "key", Etag: wrong}), codes.FailedPrecondition, "", []string{`"key"`, `"wrong"`}},
		"transaction, wrong etag":  {transact(&proto.SetRequest{Key: "new", Value: []byte("x")}, &proto.SetRequest{Key: "key", Value: []byte("x"), Etag: wrong}), codes.FailedPrecondition, "", []string{`"key"`, `"wrong"`}},
		"transaction, 5 MiB":       {transact(&proto.SetRequest{Key: "new", Value: []byte("x")}, &proto.SetRequest{Key: "key", Value: []byte(fiveMiB)}), codes.InvalidArgument, "413", []string{`"key"`, "5242880 bytes"}},
		"transaction, empty key":   {transact(&proto.SetRequest{Key: "new", Value: []byte("x")}, &proto.SetRequest{Value: []byte("x")}), codes.InvalidArgument, "400", []string{"key", `""`}},
		"publish, empty topic":     {publish(&proto.PublishRequest{Data: []byte("x")}), codes.InvalidArgument, "400", []string{`topic ""`, "1 to 512 bytes"}},
		"publish, wildcard":        {publish(&proto.PublishRequest{Topic: "a.>", Data: []byte("x")}), codes.InvalidArgument, "400", []string{`topic "a.>"`, "without the wildcards"}},
		"publish, 5 MiB":           {publish(&proto.PublishRequest{Topic: "topic", Data: []byte(fiveMiB)}), codes.InvalidArgument, "413", []string{"too large", "at most 4190208"}},
		"publish, ttlInSeconds -5": {publish(&proto.PublishRequest{Topic: "topic", Data: []byte("x"), Metadata: ttl}), codes.InvalidArgument, "400", []string{`ttlInSeconds "-5"`}},
		"publish, deliverAfter":    {publish(&proto.PublishRequest{Topic: "topic", Data: []byte("x"), Metadata: map[string]string{"deliverAfter": "later"}}), codes.InvalidArgument, "400", []string{`deliverAfter "later"`, "a duration"}},
		"publish, deliverAt":       {publish(&proto.PublishRequest{Topic: "topic", Data: []byte("x"), Metadata: map[string]string{"deliverAt": "later"}}), codes.InvalidArgument, "400", []string{`deliverAt "later"`, "RFC 3339"}},
		"bulk publish, one of two bad": {
			bulkPublish("topic", &proto.BulkMessageEntry{EntryId: "good", Event: []byte("x")}, &proto.BulkMessageEntry{EntryId: "bad", Event: []byte("x"), Metadata: ttl}),
			codes.InvalidArgument, "400", []string{`entry "bad"`, `ttlInSeconds "-5"`},
		},
		"bulk publish, no topic": {bulkPublish("", &proto.BulkMessageEntry{EntryId: "1", Event: []byte("x")}), codes.InvalidArgument, "400", []string{`topic ""`}},
		"pull, no topic": {func(ctx context.Context) error {
			return firstAnswer(ctx, topics, &proto.PullMessagesRequest{Topic: &proto.Topic{}})
		}, codes.InvalidArgument, "400", []string{`topic ""`}},
		"pull, a message before the topic": {
			func(ctx context.Context) error {
				return firstAnswer(ctx, topics, &proto.PullMessagesRequest{AckMessageId: "0d5e"})
			},
			codes.InvalidArgument, "400", []string{`topic ""`, "in the first message of PullMessages"},
		},
		"pull, bad subscription metadata": {
			func(ctx context.Context) error {
				return firstAnswer(ctx, topics, &proto.PullMessagesRequest{Topic: &proto.Topic{Name: "topic", Metadata: map[string]string{"ackWait": "a while"}}})
			},
			codes.InvalidArgument, "400", []string{`ackWait "a while"`, "a duration of 0 or more"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.call(t.Context())
			require.Equal(t, test.code, status.Code(err), "%v", err)
			for _, text := range test.text {
				require.ErrorContains(t, err, text)
			}
			require.Equal(t, test.http, httpCode(err), "the HTTP code in the details of: %v", err)
			require.Equal(t, before, e.in(t).kept(store, "key"), "what is stored")
		})
	}
}

// firstAnswer opens a stream with a message and returns the error with which it ends.
func firstAnswer(ctx context.Context, c *harness.Client, m *proto.PullMessagesRequest) error {
	stream, err := c.PubSub.PullMessages(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(m); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// httpCode is what a state call that ends with err becomes in the runtime (pkg/components/pluggable, KitErrorFromStatus).
func httpCode(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()["http_code"]
		}
	}
	return ""
}

// An acknowledgement for what was never sent neither ends the stream nor settles another event.
func TestAnAckForAnUnknownIDChangesNothing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.client(pubsubName)
	require.NoError(t, c.InitPubSub(t.Context(), "consumerID", "group"))
	publish := func(data string) {
		_, err := c.PubSub.Publish(t.Context(), &proto.PublishRequest{Topic: "topic", Data: []byte(data)})
		require.NoError(t, err)
	}
	publish("first")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := c.PubSub.PullMessages(ctx)
	require.NoError(t, err)
	send := func(m *proto.PullMessagesRequest) { require.NoError(t, stream.Send(m)) }
	next := func(want string) *proto.PullMessagesResponse {
		m, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, want, string(m.GetData()))
		return m
	}

	send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "topic"}})
	first := next("first")
	for _, id := range []string{"never sent", "", first.GetId() + "0"} {
		send(&proto.PullMessagesRequest{AckMessageId: id})
		send(&proto.PullMessagesRequest{AckMessageId: id, AckError: &proto.AckMessageError{Message: "never sent"}})
	}
	publish("second")
	second := next("second")
	send(&proto.PullMessagesRequest{AckMessageId: second.GetId()})
	e.eventually(func(c *assert.CollectT) {
		require.EqualValues(c, 1, owes(e.group("topic", "group")), "the second event is settled, the first is still owed")
	})
	send(&proto.PullMessagesRequest{AckMessageId: first.GetId()})
	send(&proto.PullMessagesRequest{AckMessageId: first.GetId()})
	e.settled()
	require.Zero(t, e.group("topic", "group").Dead)
}

func TestBytesThatAreNotJSONAreStoredAsTheyAre(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.client(storeName)
	require.NoError(t, c.InitState(t.Context()))
	const contentType = "application/json"
	for name, r := range map[string]*proto.SetRequest{
		"in the field":    {Key: "field", ContentType: contentType},
		"in the metadata": {Key: "metadata", Metadata: map[string]string{"contentType": contentType}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, value := range []string{"not { json", "\x00\xff\xfe", `{"b": 12345678901234567890, "a":1.10 }`, " 1", "", "null"} {
				r.Value = []byte(value)
				_, err := c.State.Set(t.Context(), r)
				require.NoError(t, err)
				got, err := c.State.Get(t.Context(), &proto.GetRequest{Key: r.GetKey()})
				require.NoError(t, err)
				require.Equal(t, value, string(got.GetData()))
				require.Equal(t, contentType, got.GetContentType())

				_, err = c.Transaction.Transact(t.Context(), &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{
					{Request: &proto.TransactionalStateOperation_Set{Set: r}},
				}})
				require.NoError(t, err)
				got, err = c.State.Get(t.Context(), &proto.GetRequest{Key: r.GetKey()})
				require.NoError(t, err)
				require.Equal(t, value, string(got.GetData()), "in a transaction")
			}
		})
	}
}

func TestBadInputThroughTheSidecarIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	d := e.sidecar("app", "app", nil)
	e.ready(d)
	const states, key = "/v1.0/state/" + storeName, "app||key"
	post := func(path, body string) func(t *testing.T) harness.Response {
		return func(t *testing.T) harness.Response {
			return e.in(t).call(d, http.MethodPost, path, []byte(body), "Content-Type", "application/json")
		}
	}
	require.NoError(t, post(states, `[{"key":"key","value":"value"}]`)(t).OK())
	require.NoError(t, post("/v1.0/publish/pubsub/topic", `"event"`)(t).OK())
	store := e.client(storeName)
	require.NoError(t, store.InitState(t.Context()))
	before := e.kept(store, key)
	require.Equal(t, `"value"`, before.Value)
	require.Len(t, before.Topics, 1)

	for name, test := range map[string]struct {
		call   func(t *testing.T) harness.Response
		status int
		text   []string
	}{
		"set, wrong etag":       {post(states, `[{"key":"key","value":1,"etag":"wrong"}]`), 409, []string{`app||key`, `wrong`}},
		"bulk set, wrong etags": {post(states, `[{"key":"key","value":1,"etag":"wrong"},{"key":"new","value":1,"etag":"wrong"}]`), 409, []string{`app||key`, `wrong`}},
		"set, first-write":      {post(states, `[{"key":"key","value":1,"options":{"concurrency":"first-write"}}]`), 409, []string{`app||key`, "first-write"}},
		"set, ttlInSeconds -5":  {post(states, `[{"key":"key","value":1,"metadata":{"ttlInSeconds":"-5"}}]`), 400, []string{`ttlInSeconds \"-5\"`, "a whole number of seconds from 1 to", "-1 for no end"}},
		"set, empty key":        {post(states, `[{"key":"","value":1}]`), 400, []string{`\"key\" is a required field`}}, // by the sidecar
		"set, 5 MiB":            {post(states, `[{"key":"key","value":"`+fiveMiB+`"}]`), 413, []string{"app||key", "5242882 bytes", "at most"}},
		"delete, wrong etag": {func(t *testing.T) harness.Response {
			return e.in(t).call(d, http.MethodDelete, states+"/key", nil, "If-Match", "wrong")
		}, 409, []string{`app||key`, `wrong`}},
		"transaction, wrong etag":                  {post(states+"/transaction", `{"operations":[{"operation":"upsert","request":{"key":"new","value":1}},{"operation":"upsert","request":{"key":"key","value":1,"etag":"wrong"}}]}`), 500, []string{`app||key`, `wrong`}},
		"transaction, ttl -5":                      {post(states+"/transaction", `{"operations":[{"operation":"upsert","request":{"key":"new","value":1}},{"operation":"upsert","request":{"key":"key","value":1,"metadata":{"ttlInSeconds":"-5"}}}]}`), 500, []string{"operations[1]", `ttlInSeconds \"-5\"`}},
		"publish, empty topic":                     {post("/v1.0/publish/pubsub/", `1`), 404, nil}, // by the sidecar, which has no such route
		"publish, 5 MiB":                           {post("/v1.0/publish/pubsub/topic", `"`+fiveMiB+`"`), 500, []string{"the event is too large", "at most 4190208"}},
		"publish, ttlInSeconds -5":                 {post("/v1.0/publish/pubsub/topic?metadata.ttlInSeconds=-5", `1`), 500, []string{`ttlInSeconds \"-5\"`, "a whole number of seconds from 1"}},
		"publish, deliverAt":                       {post("/v1.0/publish/pubsub/topic?metadata.deliverAt=later", `1`), 500, []string{`deliverAt \"later\"`, "RFC 3339"}},
		"publish, control characters in the topic": {post("/v1.0/publish/pubsub/a%0ab", `1`), 500, []string{`topic \"a\\nb\"`, "without control characters"}},
		"publish, wildcard topic":                  {post("/v1.0/publish/pubsub/a.%3E", `1`), 500, []string{`a.\u003e`, "without the wildcards"}},
		// The sidecar takes any answer to a bulk publish for success, also one that lists failed entries: an entry that
		// is not stored must fail the call.
		"bulk publish, one of two bad": {post("/v1.0/publish/bulk/pubsub/topic", `[{"entryId":"1","event":1,"contentType":"application/json","metadata":{"ttlInSeconds":"-5"}},{"entryId":"2","event":1,"contentType":"application/json"}]`), 500, []string{`ttlInSeconds \"-5\"`, `"entryId":"1"`}},
		"bulk publish, all bad":        {post("/v1.0/publish/bulk/pubsub/topic", `[{"entryId":"1","event":1,"contentType":"application/json","metadata":{"ttlInSeconds":"-5"}}]`), 500, []string{`ttlInSeconds \"-5\"`, `"entryId":"1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			r := test.call(t)
			require.Equal(t, test.status, r.Status, "%s", r.Body)
			for _, text := range test.text {
				require.Contains(t, string(r.Body), text)
			}
			require.Equal(t, before, e.in(t).kept(store, key), "what is stored")
		})
	}

	t.Run("set over gRPC, not JSON under a JSON content type", func(t *testing.T) {
		// The sidecar itself decodes what is said to be JSON: see TestValuesThroughTheSidecar.
		_, err := e.in(t).api(d).SaveState(t.Context(), &runtime.SaveStateRequest{StoreName: storeName, States: saved("key", "not { json", "contentType", "application/json")})
		require.ErrorContains(t, err, "invalid character")
		require.Equal(t, before, e.in(t).kept(store, key), "what is stored")
	})
	t.Run("publish over gRPC, empty topic", func(t *testing.T) {
		_, err := e.in(t).api(d).PublishEvent(t.Context(), &runtime.PublishEventRequest{PubsubName: pubsubName, Data: []byte("1")})
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		require.ErrorContains(t, err, "topic is empty")
		require.Equal(t, before, e.in(t).kept(store, key), "what is stored")
	})
}
