package component

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Whatever a value is said to be, it is not looked into.
func TestValuesComeBackByteForByte(t *testing.T) {
	values := []string{
		`{"b": 1,  "a": 12345678901234567890}`, `not JSON`, "", "\x00\xff", `"text"`, `null`,
	}
	ways := map[string]func(r *proto.SetRequest){
		"no content type": func(*proto.SetRequest) {},
		"field":           func(r *proto.SetRequest) { r.ContentType = "application/json" },
		"metadata":        func(r *proto.SetRequest) { r.Metadata = map[string]string{"contentType": "application/json"} },
		"both": func(r *proto.SetRequest) {
			r.ContentType, r.Metadata = "text/plain", map[string]string{"contentType": "application/json"}
		},
		"other case": func(r *proto.SetRequest) { r.Metadata = map[string]string{"contenttype": "application/json"} },
	}
	h := newHouse(t)
	c := h.store("a")
	calls := map[string]func(r *proto.SetRequest) error{
		"Set": func(r *proto.SetRequest) error { _, err := c.Set(c.ctx, r); return err },
		"BulkSet": func(r *proto.SetRequest) error {
			_, err := c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: []*proto.SetRequest{r}})
			return err
		},
		"Transact": func(r *proto.SetRequest) error {
			_, err := c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{
				{Request: &proto.TransactionalStateOperation_Set{Set: r}},
			}})
			return err
		},
	}
	for callName, call := range calls {
		for wayName, way := range ways {
			for i, value := range values {
				key := fmt.Sprintf("%s, %s, %d", callName, wayName, i)
				r := &proto.SetRequest{Key: key, Value: []byte(value)}
				way(r)
				require.NoError(t, call(r), key)
				got, err := c.Get(c.ctx, &proto.GetRequest{Key: key})
				require.NoError(t, err, key)
				require.Equal(t, value, string(got.GetData()), key)
				want := "application/json"
				if wayName == "no content type" {
					want = ""
				}
				require.Equal(t, want, got.GetContentType(), key)
				require.NotEmpty(t, got.GetEtag().GetValue(), key)
			}
		}
	}
}

func TestMultiMaxSize(t *testing.T) {
	c := newHouse(t).store("a")
	r, err := c.MultiMaxSize(c.ctx, &proto.MultiMaxSizeRequest{})
	require.NoError(t, err)
	require.EqualValues(t, statestore.MaxTransactionSize, r.GetMaxSize())
}

func TestTransactionOfTheLargestSize(t *testing.T) {
	c := newHouse(t).store("a")
	req := &proto.TransactionalStateRequest{}
	for i := range statestore.MaxTransactionSize {
		req.Operations = append(req.Operations, setOp(&proto.SetRequest{Key: fmt.Sprint("k", i), Value: []byte("v")}))
	}
	_, err := c.Transact(c.ctx, req)
	require.NoError(t, err)
	require.Equal(t, "v", c.get(t, "k49999"))
	req.Operations = append(req.Operations, setOp(&proto.SetRequest{Key: "more"}))
	_, err = c.Transact(c.ctx, req)
	require.Equal(t, codes.InvalidArgument, status.Code(err), err)
}

// Dapr ends a turn of a workflow, purges it and starts it afresh with one write for each of its events, in one transaction:
// where that is refused, the workflow never goes on. It can load only as many events as fit into the answer to one bulk get.
func TestATransactionTakesAllThatAWorkflowCanLoad(t *testing.T) {
	c := newHouse(t).store("a")
	sets := []*proto.SetRequest{{Key: "a||dapr.internal.default.a.workflow||1||history-000000", Value: make([]byte, 20)}}
	require.NoError(t, c.bulkSet(sets...))
	r, err := c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: sets[0].GetKey()}}})
	require.NoError(t, err)
	require.Greater(t, statestore.MaxTransactionSize*googleproto.Size(r), receiveLimit)
}

func setOp(r *proto.SetRequest) *proto.TransactionalStateOperation {
	return &proto.TransactionalStateOperation{Request: &proto.TransactionalStateOperation_Set{Set: r}}
}

// What is missing in a request is no reason to panic.
func TestMissingParts(t *testing.T) {
	h := newHouse(t)
	c := h.dial("a")
	_, err := c.Init(c.ctx, &proto.InitRequest{})
	require.NoError(t, err)
	_, err = c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{})
	require.NoError(t, err)

	_, err = c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{
		setOp(&proto.SetRequest{Key: "k"}), {},
	}})
	requireInvalid(t, err, "operations[1]")
	require.NotContains(t, h.log.String(), "panic")

	// An item that is missing arrives as one that is empty.
	for _, call := range []func() error{
		func() error { return c.bulkSet(nil) },
		func() error { return c.bulkDelete(nil) },
		func() error {
			_, err := c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{setOp(nil)}})
			return err
		},
		func() error {
			_, err := c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{{Request: &proto.TransactionalStateOperation_Delete{}}}})
			return err
		},
	} {
		requireInvalid(t, call(), "key")
	}
	r, err := c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{nil}})
	require.NoError(t, err)
	require.Contains(t, r.GetItems()[0].GetError(), "key")
	_, err = c.pubsub.BulkPublish(c.ctx, &proto.BulkPublishRequest{Topic: "t", Entries: []*proto.BulkMessageEntry{nil}})
	require.NoError(t, err)
	require.NotContains(t, h.log.String(), "panic")
}

func requireInvalid(t *testing.T, err error, text string) {
	t.Helper()
	require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	require.ErrorContains(t, err, text)
}

func TestPingReachesTheStateStore(t *testing.T) {
	h := newHouse(t)
	c := h.dial("a")
	_, err := c.Ping(c.ctx, &proto.PingRequest{})
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	c = h.store("a")
	_, err = c.Ping(c.ctx, &proto.PingRequest{})
	require.NoError(t, err)
	require.NoError(t, h.manager.Close(t.Context()))
	_, err = c.Ping(c.ctx, &proto.PingRequest{})
	require.ErrorContains(t, err, "closed")
}

func TestBadStateRequests(t *testing.T) {
	c := newHouse(t).store("a")
	big := bytes.Repeat([]byte("x"), 5<<20)
	for name, test := range map[string]struct {
		req  *proto.SetRequest
		text string
		http int
	}{
		"empty key":      {&proto.SetRequest{Value: []byte("v")}, "key", http.StatusBadRequest},
		"negative ttl":   {&proto.SetRequest{Key: "k", Metadata: map[string]string{"ttlInSeconds": "-5"}}, `invalid ttlInSeconds "-5": allowed: a whole number of seconds from 1 to 2147483647, or 0 or -1 for no end`, http.StatusBadRequest},
		"ttl is text":    {&proto.SetRequest{Key: "k", Metadata: map[string]string{"ttlinseconds": "soon"}}, `invalid ttlInSeconds "soon"`, http.StatusBadRequest},
		"value of 5 MiB": {&proto.SetRequest{Key: "k", Value: big}, "5242880 bytes", http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Set(c.ctx, test.req)
			requireInvalid(t, err, test.text)
			require.Equal(t, test.http, kitHTTPCode(t, err))
			_, err = c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: []*proto.SetRequest{{Key: "good", Value: []byte("v")}, test.req}})
			requireInvalid(t, err, test.text)
			require.Equal(t, test.http, kitHTTPCode(t, err))
			_, err = c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{
				setOp(&proto.SetRequest{Key: "other", Value: []byte("v")}), setOp(test.req),
			}})
			requireInvalid(t, err, test.text)
			require.Empty(t, c.get(t, "k"))
			require.Empty(t, c.get(t, "other"))
			require.Equal(t, "v", c.get(t, "good"))
		})
	}
}

func TestETagMismatchOnTheWire(t *testing.T) {
	c := newHouse(t).store("a")
	require.NoError(t, c.set("k", "v"))
	wrong := &proto.Etag{Value: "wrong"}
	first := &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	for name, call := range map[string]func() error{
		"set":    func() error { _, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Etag: wrong}); return err },
		"delete": func() error { _, err := c.Delete(c.ctx, &proto.DeleteRequest{Key: "k", Etag: wrong}); return err },
		"first":  func() error { _, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Options: first}); return err },
		"bulk delete": func() error {
			_, err := c.BulkDelete(c.ctx, &proto.BulkDeleteRequest{Items: []*proto.DeleteRequest{{Key: "none"}, {Key: "k", Etag: wrong}}})
			return err
		},
		"bulk set": func() error {
			_, err := c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: []*proto.SetRequest{{Key: "k", Etag: wrong}}})
			return err
		},
		"transaction": func() error {
			_, err := c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{setOp(&proto.SetRequest{Key: "k", Etag: wrong})}})
			return err
		},
	} {
		s := status.Convert(call())
		require.Equal(t, codes.FailedPrecondition, s.Code(), name)
		require.Len(t, s.Details(), 1, name)
		require.Equal(t, "etag", s.Details()[0].(*errdetails.BadRequest).GetFieldViolations()[0].GetField(), name)
		require.Equal(t, "v", c.get(t, "k"), name)
	}
}

func TestTTL(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))
	c := newHouse(t, func(h *house) { h.clock = clock }).store("a")
	set := func(ttl string) {
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": ttl}})
		require.NoError(t, err)
	}
	set("60")
	got, err := c.Get(c.ctx, &proto.GetRequest{Key: "k"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"ttlExpireTime": "2026-01-31T12:01:00Z"}, got.GetMetadata())
	bulk, err := c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: "k"}}})
	require.NoError(t, err)
	require.Equal(t, got.GetMetadata(), bulk.GetItems()[0].GetMetadata())
	clock.Advance(time.Minute)
	require.Empty(t, c.get(t, "k"))

	set("60")
	set("-1")
	clock.Advance(time.Hour)
	require.Equal(t, "v", c.get(t, "k"))
}

// Between a write's arrival and its turn, keys expire.
func TestAConditionalWriteTakesItsTimeWhenItIsDecided(t *testing.T) {
	clock := clockwork.NewFakeClock()
	var engine *tappedEngine
	c := newTappedHouseAt(t, clock, func(e statestore.Engine) statestore.Engine {
		engine = &tappedEngine{Engine: e}
		return engine
	}).store("a")
	_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": "60"}})
	require.NoError(t, err)
	got, err := c.Get(c.ctx, &proto.GetRequest{Key: "k"})
	require.NoError(t, err)
	engine.apply = func(_ int, run func() ([]error, error)) ([]error, error) {
		clock.Advance(time.Minute)
		return run()
	}
	_, err = c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("w"), Etag: got.GetEtag()})
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	first := &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	_, err = c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("x"), Options: first, Metadata: map[string]string{"ttlInSeconds": "60"}})
	require.NoError(t, err)
	_, err = c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("y"), Options: first})
	require.NoError(t, err)
	require.Equal(t, "y", c.get(t, "k"))
}

func TestAFlippedBitOfAValueIsNoticed(t *testing.T) {
	h := newHouse(t)
	c := h.store("a")
	require.NoError(t, c.set("damaged", "precious"))
	require.NoError(t, c.set("sound", "value"))
	h.stop()
	path := filepath.Join(h.dir, "data", "dapr.db")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := bytes.ReplaceAll(raw, []byte("precious"), []byte("preciour"))
	require.NotEqual(t, raw, damaged)
	require.NoError(t, os.WriteFile(path, damaged, 0o600))
	h.start()
	c = h.store("a")
	_, err = c.Get(c.ctx, &proto.GetRequest{Key: "damaged"})
	require.Equal(t, codes.DataLoss, status.Code(err), err)
	require.ErrorContains(t, err, `value of key "damaged"`)
	require.Equal(t, "value", c.get(t, "sound"))
	require.NoError(t, c.set("damaged", "new"))
	require.Equal(t, "new", c.get(t, "damaged"))
}

// Who goes on with a backup gives out versions that the original has given out, too.
func TestETagsOfADiscardedHistoryAreInvalid(t *testing.T) {
	h := newHouse(t)
	c := h.store("a")
	require.NoError(t, c.set("k", "1"))
	etag := func() *proto.Etag {
		r, err := c.Get(c.ctx, &proto.GetRequest{Key: "k"})
		require.NoError(t, err)
		return r.GetEtag()
	}
	old := etag()
	backup := filepath.Join(h.dir, "backup.db")
	require.NoError(t, h.manager.Backup(t.Context(), databases.DefaultDatabase, backup))
	require.Equal(t, old.GetValue(), etag().GetValue(), "the original goes on as it is")
	require.NoError(t, c.set("k", "2"))
	discarded := etag()
	h.stop()
	require.NoError(t, os.Rename(backup, filepath.Join(h.dir, "data", "dapr.db")))
	h.start()
	c = h.store("a")
	require.NotEqual(t, old.GetValue(), etag().GetValue())
	require.NoError(t, c.set("k", "3"))
	require.NotEqual(t, discarded.GetValue(), etag().GetValue())
	_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("4"), Etag: discarded})
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	_, err = c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("4"), Etag: etag()})
	require.NoError(t, err)
}

func TestIdempotencyKeys(t *testing.T) {
	clock := clockwork.NewFakeClock()
	c := newHouse(t, func(h *house) { h.clock = clock }).store("a", "idempotencyWindow", "1h")
	md := map[string]string{"idempotencyKey": "once"}
	put := func(value string) {
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte(value), Metadata: md})
		require.NoError(t, err)
	}
	put("1")
	put("2")
	require.Equal(t, "1", c.get(t, "k"))
	_, err := c.Delete(c.ctx, &proto.DeleteRequest{Key: "k", Metadata: md})
	require.NoError(t, err)
	_, err = c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{setOp(&proto.SetRequest{Key: "k"})}, Metadata: md})
	require.NoError(t, err)
	require.Equal(t, "1", c.get(t, "k"))
	clock.Advance(time.Hour)
	put("3")
	require.Equal(t, "3", c.get(t, "k"))
}

func TestIdempotencyKeysAreAnAppsOwn(t *testing.T) {
	c := newHouse(t).store("a")
	md := map[string]string{"idempotencyKey": "event-1"}
	for _, key := range []string{"billing||seen", "shipping||seen", "billing||other"} {
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: key, Value: []byte("v"), Metadata: md})
		require.NoError(t, err)
	}
	_, err := c.Transact(c.ctx, &proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{setOp(&proto.SetRequest{Key: "stock||seen"})}, Metadata: md})
	require.NoError(t, err)
	require.Equal(t, "v", c.get(t, "billing||seen"))
	require.Equal(t, "v", c.get(t, "shipping||seen"), "another app handles the same event")
	require.Empty(t, c.get(t, "billing||other"), "within an app, a key stands for one call")
	r, err := c.Get(c.ctx, &proto.GetRequest{Key: "stock||seen"})
	require.NoError(t, err)
	require.NotNil(t, r.GetEtag())
}

func TestBulkGetNeverPassesTheLimit(t *testing.T) {
	c := newHouse(t).store("a")
	value := bytes.Repeat([]byte("x"), 100<<10)
	req := &proto.BulkGetRequest{}
	for i := range 100 {
		key := fmt.Sprint("k", i)
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: key, Value: value})
		require.NoError(t, err)
		req.Items = append(req.Items, &proto.GetRequest{Key: key})
	}
	r, err := c.BulkGet(c.ctx, req)
	require.NoError(t, err, "gRPC's default limit of 4 MiB holds for this client")
	require.Len(t, r.GetItems(), 100)
	arrived := 0
	for i, item := range r.GetItems() {
		require.Equal(t, fmt.Sprint("k", i), item.GetKey())
		if item.GetError() == "" {
			require.Equal(t, value, item.GetData())
			arrived++
		} else {
			require.Equal(t, noRoomError, item.GetError())
			require.Empty(t, item.GetData())
		}
	}
	require.Equal(t, 40, arrived)

	// Keys alone can be too many.
	for range 1000 {
		req.Items = append(req.Items, &proto.GetRequest{Key: string(value[:8<<10])})
	}
	_, err = c.BulkGet(c.ctx, req)
	requireInvalid(t, err, "ask for fewer at once")

	// A broken item fails alone.
	r, err = c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: ""}, {Key: "k0"}, {Key: "none"}}})
	require.NoError(t, err)
	require.Contains(t, r.GetItems()[0].GetError(), "key")
	require.Equal(t, value, r.GetItems()[1].GetData())
	require.Empty(t, r.GetItems()[2].GetError())
	require.Nil(t, r.GetItems()[2].GetEtag())
}

// A panic is answered, logged with its stack, and costs nobody else anything.
func TestPanicInACall(t *testing.T) {
	h := newHouse(t, func(h *house) { h.backend = panicking{} })
	c := h.store("a")
	_, err := c.Get(c.ctx, &proto.GetRequest{Key: "k"})
	require.Equal(t, codes.Internal, status.Code(err), err)
	require.NotContains(t, err.Error(), "secret")
	require.Contains(t, h.log.String(), "secret of the engine")
	require.Contains(t, h.log.String(), "statestore_test.go")
	_, err = c.Features(c.ctx, &proto.FeaturesRequest{})
	require.NoError(t, err)
}

type panicking struct{ Backend }

func (panicking) StateStoreAt(context.Context, servers.Place) (*statestore.Store, error) {
	s, err := statestore.New(panickingEngine{}, statestore.Options{})
	if err != nil {
		return nil, err
	}
	return s, s.Close(context.Background())
}

type panickingEngine struct{ statestore.Engine }

func (panickingEngine) Get(context.Context, []string, int, time.Time) ([]statestore.Item, error) {
	panic(errors.New("secret of the engine"))
}
