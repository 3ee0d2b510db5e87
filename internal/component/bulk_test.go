package component

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

func (c *sidecar) bulkSet(items ...*proto.SetRequest) error {
	_, err := c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: items})
	return err
}

func (c *sidecar) bulkDelete(items ...*proto.DeleteRequest) error {
	_, err := c.BulkDelete(c.ctx, &proto.BulkDeleteRequest{Items: items})
	return err
}

// once is a set as the runtime sends it for an item of POST …/state/store?metadata.idempotencyKey=id: the URL's metadata
// stand in every item.
func once(id, key, value string) *proto.SetRequest {
	return &proto.SetRequest{Key: key, Value: []byte(value), Metadata: map[string]string{"idempotencyKey": id}}
}

func TestABulkCallUnderOneIdempotencyKeyIsOneTransaction(t *testing.T) {
	c := newHouse(t).store("a")
	require.NoError(t, c.bulkSet(once("e1", "a", "1"), once("e1", "b", "1")))
	require.Equal(t, "1", c.get(t, "a"))
	require.Equal(t, "1", c.get(t, "b"))

	require.NoError(t, c.bulkSet(once("e1", "a", "2"), once("e1", "c", "2")), "a repeat")
	require.Equal(t, "1", c.get(t, "a"))
	require.Empty(t, c.get(t, "c"))

	// All or none, and a call that fails does not use its key up.
	stale := once("e2", "b", "2")
	stale.Etag = &proto.Etag{Value: "never"}
	err := c.bulkSet(once("e2", "a", "2"), stale, once("e2", "c", "2"))
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	require.Equal(t, "1", c.get(t, "a"))
	require.Empty(t, c.get(t, "c"))
	bad := once("e2", "b", "2")
	bad.Metadata["ttlInSeconds"] = "soon"
	requireInvalid(t, c.bulkSet(once("e2", "a", "2"), bad), `ttlInSeconds "soon"`)
	require.Equal(t, "1", c.get(t, "a"))
	require.NoError(t, c.bulkSet(once("e2", "a", "2"), once("e2", "b", "2")))
	require.Equal(t, "2", c.get(t, "a"))
	require.Equal(t, "2", c.get(t, "b"))

	md := map[string]string{"idempotencyKey": "e3"}
	gone := &proto.DeleteRequest{Key: "b", Metadata: md, Etag: &proto.Etag{Value: "never"}}
	err = c.bulkDelete(&proto.DeleteRequest{Key: "a", Metadata: md}, gone)
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	require.Equal(t, "2", c.get(t, "a"))
	gone.Etag = nil
	require.NoError(t, c.bulkDelete(&proto.DeleteRequest{Key: "a", Metadata: md}, gone))
	require.Empty(t, c.get(t, "a"))
	require.Empty(t, c.get(t, "b"))
	require.NoError(t, c.set("a", "3"))
	require.NoError(t, c.bulkDelete(&proto.DeleteRequest{Key: "a", Metadata: md}))
	require.Equal(t, "3", c.get(t, "a"))
}

func TestEachIdempotencyKeyOfABulkCallIsATransaction(t *testing.T) {
	c := newHouse(t).store("a")
	stale := once("e2", "b2", "1")
	stale.Etag = &proto.Etag{Value: "never"}
	err := c.bulkSet(once("e1", "a1", "1"), once("e2", "b1", "1"), once("", "c1", "1"), once("e1", "a2", "1"), stale, once("", "c2", "1"))
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	for key, want := range map[string]string{"a1": "1", "a2": "1", "b1": "", "b2": "", "c1": "1", "c2": "1"} {
		require.Equal(t, want, c.get(t, key), key)
	}
	// The order of what has no transaction in common stays.
	require.NoError(t, c.bulkSet(once("", "k", "1"), once("e3", "k", "2"), once("", "k", "3")))
	require.Equal(t, "3", c.get(t, "k"))
}

func TestABulkCallUnderAKeyHasAsManyItemsAsATransaction(t *testing.T) {
	// Its requests are so large that a busy machine may take longer for one than a client may.
	c := newHouse(t, func(h *house) { h.options = func(o *Options) { o.Clock = clockwork.NewFakeClock() } }).store("a")
	sets := make([]*proto.SetRequest, statestore.MaxTransactionSize+1)
	deletes := make([]*proto.DeleteRequest, len(sets))
	for i := range sets {
		sets[i] = once("e", fmt.Sprint("k", i), "v")
		deletes[i] = &proto.DeleteRequest{Key: sets[i].Key, Metadata: sets[i].Metadata}
	}
	for _, err := range []error{c.bulkSet(sets...), c.bulkDelete(deletes...)} {
		requireInvalid(t, err, "at most 50000")
		require.Equal(t, http.StatusBadRequest, kitHTTPCode(t, err))
		require.Equal(t, 1, strings.Count(err.Error(), "at most 50000"))
	}
	require.Empty(t, c.get(t, "k0"))
	require.NoError(t, c.bulkSet(sets[1:]...), "the key is not used up")
	require.Empty(t, c.get(t, "k0"))
	require.Equal(t, "v", c.get(t, "k50000"))
}

// tappedBackend is a Backend with one state store, whose engine the test listens in on.
type tappedBackend struct {
	Backend
	store *statestore.Store
}

func (b *tappedBackend) StateStoreAt(context.Context, servers.Place) (*statestore.Store, error) {
	return b.store, nil
}

func (b *tappedBackend) BrokerAt(context.Context, servers.Place) (pubsub.Service, error) {
	return nil, nil
}

// newTappedHouse serves a store on the engine that tap makes of one on bbolt.
func newTappedHouse(t *testing.T, tap func(statestore.Engine) statestore.Engine) *house {
	return newTappedHouseAt(t, clockwork.NewRealClock(), tap)
}

func newTappedHouseAt(t *testing.T, clock clockwork.Clock, tap func(statestore.Engine) statestore.Engine) *house {
	db, err := boltdb.Open(t.Context(), filepath.Join(t.TempDir(), "tapped.db"), boltdb.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	engine, err := boltengine.New(db, "state")
	require.NoError(t, err)
	store, err := statestore.New(tap(engine), statestore.Options{Clock: clock})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close(context.Background())) })
	return newHouse(t, func(h *house) { h.backend = &tappedBackend{store: store} })
}

// tappedEngine calls what is set, in place of the engine or beside it.
type tappedEngine struct {
	statestore.Engine
	apply func(writes int, run func() ([]error, error)) ([]error, error)
	got   func(keys []string, items []statestore.Item)
	shown func(ctx context.Context, value []byte)
	ended func() // a view
}

func (e *tappedEngine) Apply(ctx context.Context, transactions []statestore.Transaction, now func() time.Time) ([]error, error) {
	run := func() ([]error, error) { return e.Engine.Apply(ctx, transactions, now) }
	if e.apply == nil {
		return run()
	}
	writes := 0
	for _, t := range transactions {
		writes += len(t.Writes)
	}
	return e.apply(writes, run)
}

func (e *tappedEngine) Get(ctx context.Context, keys []string, room int, now time.Time) ([]statestore.Item, error) {
	items, err := e.Engine.Get(ctx, keys, room, now)
	if e.got != nil {
		e.got(keys, items)
	}
	return items, err
}

func (e *tappedEngine) View(ctx context.Context, now time.Time, fn func(statestore.Snapshot) error) error {
	if e.ended != nil {
		defer e.ended()
	}
	return e.Engine.View(ctx, now, func(s statestore.Snapshot) error { return fn(&tappedSnapshot{s, ctx, e}) })
}

type tappedSnapshot struct {
	statestore.Snapshot
	ctx    context.Context
	engine *tappedEngine
}

func (s *tappedSnapshot) Scan(after string, visit func(key, value []byte) bool) error {
	return s.Snapshot.Scan(after, func(key, value []byte) bool {
		if s.engine.shown != nil {
			s.engine.shown(s.ctx, value)
		}
		return visit(key, value)
	})
}

func randomSets(n int) []*proto.SetRequest {
	rng := rand.New(rand.NewPCG(1, 2))
	sets := make([]*proto.SetRequest, n)
	for i := range sets {
		sets[i] = &proto.SetRequest{Key: fmt.Sprintf("%016x", rng.Uint64()), Value: []byte("v")}
	}
	return sets
}

func TestABulkSetIsManyBoundedCommits(t *testing.T) {
	var mu sync.Mutex
	var commits []int
	c := newTappedHouse(t, func(e statestore.Engine) statestore.Engine {
		return &tappedEngine{Engine: e, apply: func(writes int, run func() ([]error, error)) ([]error, error) {
			mu.Lock()
			commits = append(commits, writes)
			mu.Unlock()
			return run()
		}}
	}).store("a")
	sets := randomSets(25_000)
	sets[0].Etag = &proto.Etag{Value: "never"}
	err := c.bulkSet(sets...)
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
	require.Equal(t, []int{10_000, 10_000, 5_000}, commits)
	require.Empty(t, c.get(t, sets[0].Key))
	for _, i := range []int{1, 9_999, 10_000, 24_999} {
		require.Equal(t, "v", c.get(t, sets[i].Key), i)
	}
}

// Between a large commit and the next of whichever bulk call, whoever waits with a set has its turn.
func TestASetWaitsForOneCommitOfAllBulkCalls(t *testing.T) {
	var mu sync.Mutex
	atOnce, most, large := 0, 0, 0
	var h *house
	var other *sidecar
	h = newTappedHouse(t, func(e statestore.Engine) statestore.Engine {
		return &tappedEngine{Engine: e, apply: func(writes int, run func() ([]error, error)) ([]error, error) {
			if writes == 1 {
				return run()
			}
			mu.Lock()
			large++
			key := fmt.Sprint("beside ", large)
			atOnce++
			most = max(most, atOnce)
			mu.Unlock()
			// The set comes through while this commit, and all that the bulk calls have yet to write, are waiting.
			if err := other.set(key, "v"); err != nil {
				return nil, err
			}
			outcomes, err := run()
			mu.Lock()
			atOnce--
			mu.Unlock()
			return outcomes, err
		}}
	})
	other = h.store("other")
	var bulks sync.WaitGroup
	for i := range 4 {
		c := h.store(fmt.Sprint("bulk", i))
		bulks.Go(func() {
			sets := randomSets(15_000)
			for _, s := range sets {
				s.Key = fmt.Sprint(i, s.Key)
			}
			if err := c.bulkSet(sets...); err != nil {
				t.Error(err)
			}
		})
	}
	bulks.Wait()
	require.Equal(t, 8, large)
	require.Equal(t, 1, most, "two large commits waited at once, and both may come before a set")
}

func TestABulkGetReadsOneSnapshot(t *testing.T) {
	var engine *tappedEngine
	c := newTappedHouse(t, func(e statestore.Engine) statestore.Engine {
		engine = &tappedEngine{Engine: e}
		return engine
	}).store("a")
	const keys = 100
	write := func(value string) error {
		req := &proto.TransactionalStateRequest{}
		for i := range keys {
			req.Operations = append(req.Operations, setOp(&proto.SetRequest{Key: fmt.Sprint("k", i), Value: []byte(value)}))
		}
		_, err := c.Transact(c.ctx, req)
		return err
	}
	require.NoError(t, write("0"))
	reads := 0
	engine.got = func([]string, []statestore.Item) {
		reads++
		if err := write(fmt.Sprint(reads)); err != nil {
			t.Error(err)
		}
	}
	req := &proto.BulkGetRequest{}
	for i := range keys {
		req.Items = append(req.Items, &proto.GetRequest{Key: fmt.Sprint("k", i)})
	}
	r, err := c.BulkGet(c.ctx, req)
	require.NoError(t, err)
	for _, item := range r.GetItems() {
		require.Equal(t, string(r.GetItems()[0].GetData()), string(item.GetData()), "a torn transaction")
	}
}

func TestABulkGetCopiesWhatItsAnswerHolds(t *testing.T) {
	var engine *tappedEngine
	c := newTappedHouse(t, func(e statestore.Engine) statestore.Engine {
		engine = &tappedEngine{Engine: e}
		return engine
	}).store("a")
	large := make([]byte, 3<<20)
	req := &proto.BulkGetRequest{}
	for i := range 16 {
		key := fmt.Sprint("k", i)
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: key, Value: large})
		require.NoError(t, err)
		req.Items = append(req.Items, &proto.GetRequest{Key: key})
	}
	require.NoError(t, c.set("small", "v"))
	for range 1000 {
		req.Items = append(req.Items, &proto.GetRequest{Key: "k0"}, &proto.GetRequest{Key: "small"})
	}
	copied, asked := 0, map[string]int{}
	engine.got = func(keys []string, items []statestore.Item) {
		for i := range items {
			copied += len(items[i].Value)
			asked[keys[i]]++
		}
	}
	r, err := c.BulkGet(c.ctx, req)
	require.NoError(t, err)
	require.LessOrEqual(t, copied, receiveLimit)
	for key, times := range asked {
		require.Equal(t, 1, times, "reads of %s", key)
	}
	require.Len(t, r.GetItems(), len(req.GetItems()))
	for i, item := range r.GetItems() {
		require.Equal(t, req.GetItems()[i].GetKey(), item.GetKey())
		switch {
		case i == 0:
			require.Equal(t, large, item.GetData())
		case item.GetKey() == "small":
			require.Equal(t, "v", string(item.GetData()))
		default:
			require.Equal(t, noRoomError, item.GetError())
			require.Empty(t, item.GetData())
		}
	}
}

func TestAQueryEndsSoonAfterItsContext(t *testing.T) {
	var engine *tappedEngine
	c := newTappedHouse(t, func(e statestore.Engine) statestore.Engine {
		engine = &tappedEngine{Engine: e}
		return engine
	}).store("a")
	value := `{"a":"` + strings.Repeat("x", 400<<10) + `"}`
	for i := range 40 {
		require.NoError(t, c.set(fmt.Sprint("k", i), value))
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.ctx = ctx
	examined, canceled := 0, false
	engine.shown = func(ctx context.Context, value []byte) {
		if canceled {
			examined += len(value)
			return
		}
		cancel()
		<-ctx.Done()
		canceled = true
	}
	ended := make(chan struct{})
	engine.ended = func() { close(ended) }
	_, err := c.query(&proto.Query{Filter: filter("EQ", `{"b":1}`)})
	require.Equal(t, codes.Canceled, status.Code(err), err)
	<-ended
	require.LessOrEqual(t, examined, 1<<20)
}
