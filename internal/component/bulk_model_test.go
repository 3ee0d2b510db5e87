package component

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// stateModel is what the README promises of a state store that several apps share, in maps.
type stateModel struct {
	items map[string]modelItem
	ids   map[string]time.Time // until when idempotency keys are remembered
	etags []string             // all that were ever seen
}

type modelItem struct {
	value, etag string // etag empty: not seen yet
	expires     time.Time
}

// modelOp is a set or a delete, as one item of a call.
type modelOp struct {
	key, value, etag, id string
	firstWrite, remove   bool
	ttl                  string
}

func (m *stateModel) live(key string, now time.Time) (modelItem, bool) {
	item, ok := m.items[key]
	if !ok || !item.expires.IsZero() && !now.Before(item.expires) {
		return modelItem{}, false
	}
	return item, true
}

// transaction returns the code of a call that consists of ops, all or none, under the id of the first of them.
func (m *stateModel) transaction(now time.Time, ops ...modelOp) codes.Code {
	if len(ops) > statestore.MaxTransactionSize || slices.ContainsFunc(ops, func(op modelOp) bool { return op.ttl == "soon" }) {
		return codes.InvalidArgument
	}
	app, _, _ := strings.Cut(ops[0].key, "||")
	id := app + "||" + ops[0].id
	if ops[0].id != "" && now.Before(m.ids[id]) {
		return codes.OK
	}
	for _, op := range ops {
		item, ok := m.live(op.key, now)
		if op.etag != "" && (!ok || item.etag != op.etag) || op.etag == "" && op.firstWrite && ok {
			return codes.FailedPrecondition
		}
	}
	for _, op := range ops {
		delete(m.items, op.key)
		if !op.remove {
			item := modelItem{value: op.value}
			if op.ttl != "" {
				item.expires = now.Add(2 * time.Second)
			}
			m.items[op.key] = item
		}
	}
	if ops[0].id != "" {
		m.ids[id] = now.Add(modelWindow)
	}
	return codes.OK
}

const modelWindow = 3 * time.Second

// bulk returns the code of a bulk call: those of one id are a transaction, at the place of the first of them.
func (m *stateModel) bulk(now time.Time, ops []modelOp) codes.Code {
	result := codes.OK
	done := map[string]bool{}
	for i, op := range ops {
		group := []modelOp{op}
		if op.id != "" {
			if done[op.id] {
				continue
			}
			done[op.id] = true
			for _, other := range ops[i+1:] {
				if other.id == op.id {
					group = append(group, other)
				}
			}
		}
		if code := m.transaction(now, group...); code == codes.InvalidArgument || result == codes.OK {
			result = code
		}
	}
	return result
}

func (op *modelOp) set() *proto.SetRequest {
	r := &proto.SetRequest{Key: op.key, Value: []byte(op.value), Metadata: map[string]string{"idempotencyKey": op.id, "ttlInSeconds": op.ttl}}
	if op.etag != "" {
		r.Etag = &proto.Etag{Value: op.etag}
	}
	if op.firstWrite {
		r.Options = &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	}
	return r
}

func (op *modelOp) delete() *proto.DeleteRequest {
	r := &proto.DeleteRequest{Key: op.key, Metadata: map[string]string{"idempotencyKey": op.id}}
	if op.etag != "" {
		r.Etag = &proto.Etag{Value: op.etag}
	}
	return r
}

// Two apps write to one bucket, each by a sidecar of its own: single, bulk and transactional calls with ETags,
// first-writes, times to live, idempotency keys and requests that are not allowed.
func TestBulkCallsAreAsTheModelSays(t *testing.T) {
	clock := clockwork.NewFakeClock()
	h := newHouse(t, func(h *house) { h.clock = clock })
	history := 0
	rapid.Check(t, func(t *rapid.T) {
		history++
		bucket := fmt.Sprint("history", history)
		apps := map[string]*sidecar{}
		var keys []string
		for _, app := range []string{"a", "b"} {
			apps[app] = h.store(app+bucket, "bucket", bucket, "idempotencyWindow", modelWindow.String())
			apps[app].ctx = h.withInstance(app + bucket)
			for _, key := range []string{"1", "2", "3"} {
				keys = append(keys, app+"||"+key)
			}
		}
		m := &stateModel{items: map[string]modelItem{}, ids: map[string]time.Time{}}
		n := 0
		op := func(t *rapid.T, app string, remove bool) modelOp {
			n++
			op := modelOp{
				key: app + "||" + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "key"), value: fmt.Sprint(n), remove: remove,
				id: rapid.SampledFrom([]string{"", "", "e1", "e2"}).Draw(t, "id"),
			}
			etags := append([]string{"", "", "", "", "never"}, m.etags[max(0, len(m.etags)-2):]...)
			if item, ok := m.items[op.key]; ok {
				etags = append(etags, item.etag, item.etag, item.etag)
			}
			op.etag = rapid.SampledFrom(etags).Draw(t, "etag")
			if !remove {
				op.firstWrite = rapid.IntRange(0, 4).Draw(t, "first-write") == 0
				op.ttl = rapid.SampledFrom([]string{"", "", "", "", "", "", "2", "2", "soon"}).Draw(t, "ttl")
			}
			return op
		}
		app := func(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app") }
		bulkSet := func(app string, ops []modelOp) error {
			var sets []*proto.SetRequest
			for i := range ops {
				sets = append(sets, ops[i].set())
			}
			return apps[app].bulkSet(sets...)
		}
		require := func(t *rapid.T, want codes.Code, err error) {
			require.Equal(t, want, status.Code(err), "%v", err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				app := app(t)
				op := op(t, app, false)
				_, err := apps[app].Set(apps[app].ctx, op.set())
				require(t, m.transaction(clock.Now(), op), err)
			},
			"delete": func(t *rapid.T) {
				app := app(t)
				op := op(t, app, true)
				_, err := apps[app].Delete(apps[app].ctx, op.delete())
				require(t, m.transaction(clock.Now(), op), err)
			},
			"bulk set": func(t *rapid.T) {
				app := app(t)
				var ops []modelOp
				for range rapid.IntRange(1, 6).Draw(t, "items") {
					ops = append(ops, op(t, app, false))
				}
				require(t, m.bulk(clock.Now(), ops), bulkSet(app, ops))
			},
			"bulk delete": func(t *rapid.T) {
				app := app(t)
				var ops []modelOp
				var deletes []*proto.DeleteRequest
				for range rapid.IntRange(1, 6).Draw(t, "items") {
					ops = append(ops, op(t, app, true))
					deletes = append(deletes, ops[len(ops)-1].delete())
				}
				require(t, m.bulk(clock.Now(), ops), apps[app].bulkDelete(deletes...))
			},
			"a transaction": func(t *rapid.T) {
				app := app(t)
				var ops []modelOp
				req := &proto.TransactionalStateRequest{}
				id := rapid.SampledFrom([]string{"", "e1", "e2"}).Draw(t, "id of all")
				owned, mayOwn := false, rapid.IntRange(0, 9).Draw(t, "ids of operations") == 0
				for range rapid.IntRange(1, 4).Draw(t, "operations") {
					op := op(t, app, rapid.Bool().Draw(t, "delete"))
					if !mayOwn {
						op.id = ""
					}
					owned = owned || op.id != ""
					if op.remove {
						req.Operations = append(req.Operations, &proto.TransactionalStateOperation{
							Request: &proto.TransactionalStateOperation_Delete{Delete: op.delete()},
						})
					} else {
						req.Operations = append(req.Operations, setOp(op.set()))
					}
					op.id = id
					ops = append(ops, op)
				}
				want := codes.InvalidArgument
				if !owned {
					want = m.transaction(clock.Now(), ops...)
				}
				req.Metadata = map[string]string{"idempotencyKey": id}
				_, err := apps[app].Transact(apps[app].ctx, req)
				require(t, want, err)
			},
			"too much under a key": func(t *rapid.T) {
				if rapid.IntRange(0, 20).Draw(t, "rarely") > 0 {
					t.Skip()
				}
				app := app(t)
				ops := slices.Repeat([]modelOp{{key: app + "||1", value: "many", id: "e1"}}, statestore.MaxTransactionSize+1)
				require(t, m.bulk(clock.Now(), ops), bulkSet(app, ops))
			},
			"time": func(*rapid.T) { clock.Advance(time.Second) },
			"": func(t *rapid.T) {
				req := &proto.BulkGetRequest{}
				for _, key := range append(keys, keys[0]) {
					req.Items = append(req.Items, &proto.GetRequest{Key: key})
				}
				c := apps[app(t)]
				r, err := c.BulkGet(c.ctx, req)
				require(t, codes.OK, err)
				for _, got := range r.GetItems() {
					want, ok := m.live(got.GetKey(), clock.Now())
					if ok != (got.GetEtag() != nil) || want.value != string(got.GetData()) || got.GetError() != "" {
						t.Fatalf("%v, want %v (%v)", got, want, ok)
					}
					if !ok {
						continue
					}
					etag := got.GetEtag().GetValue()
					if want.etag == "" {
						if slices.Contains(m.etags, etag) {
							t.Fatalf("etag %s was given out twice", etag)
						}
						want.etag = etag
						m.items[got.GetKey()] = want
						m.etags = append(m.etags, etag)
					}
					if want.etag != etag {
						t.Fatalf("%v, want %v", got, want)
					}
				}
			},
		})
	})
}

// withInstance is a context without a deadline for calls of the component.
func (h *house) withInstance(component string) context.Context {
	return metadata.AppendToOutgoingContext(h.t.Context(), instanceHeader, component)
}
