package component

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dapr/components-contrib/health"
	contribstate "github.com/dapr/components-contrib/state"
	stateutils "github.com/dapr/components-contrib/state/utils"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Bounds of a BulkGet's answer, in bytes.
const (
	// receiveLimit is what a sidecar can receive in one message, whatever its own limits say: gRPC's default.
	receiveLimit = 4 << 20
	// itemOverhead is more than the encoding adds to the parts of one item, ttlExpireTime included.
	itemOverhead = 128
)

const noRoomError = "not read: the answer to a bulk get is limited to 4 MiB and has no room for this value; get it on its own"

// probeKey is what Ping reads. It need not exist.
const probeKey = "ping"

// StateStore is Dapr's state store component on a Backend. Its methods may be called from any goroutine once Init has
// returned. Reads are always strongly consistent, whatever a request asks for.
type StateStore struct {
	backend Backend
	log     *slog.Logger
	metrics *metrics.Metrics
	opened  atomic.Pointer[openedStore]
}

type openedStore struct {
	*statestore.Store
	config  stateConfig
	metrics *metrics.State
}

var (
	_ contribstate.Store                          = (*StateStore)(nil)
	_ contribstate.TransactionalStore             = (*StateStore)(nil)
	_ contribstate.TransactionalStoreMultiMaxSize = (*StateStore)(nil)
	_ health.Pinger                               = (*StateStore)(nil)
)

// NewStateStore returns a component that Init makes ready for use.
func NewStateStore(backend Backend, opts ComponentOptions) *StateStore {
	opts.setDefaults()
	return &StateStore{backend: backend, log: opts.Logger, metrics: opts.Metrics}
}

// Init opens the store that the metadata names. Metadata that is not allowed is an invalid.Error.
func (s *StateStore) Init(ctx context.Context, metadata contribstate.Metadata) error {
	config, err := parseStateConfig(metadata.Properties)
	if err == nil {
		err = config.check()
	}
	if err != nil {
		return fmt.Errorf("initialize state store: %w", err)
	}
	var store *statestore.Store
	if config.Engine == engineEtcd {
		store, err = s.backend.EtcdStateStore(ctx, config.Servers, config.Database, config.Bucket)
	} else {
		store, err = s.backend.StateStore(ctx, config.Database, config.Bucket)
	}
	if err != nil {
		return fmt.Errorf("initialize state store: %w", err)
	}
	if config.CleanupInterval != statestore.DefaultCleanupInterval {
		if err := store.SetCleanupInterval(config.CleanupInterval); err != nil {
			return fmt.Errorf("initialize state store: %w", err)
		}
	}
	if err := store.AddQueryIndexes(config.QueryIndexes...); err != nil {
		return fmt.Errorf("initialize state store: %w", err)
	}
	warnUnknown(s.log, metadata.Properties, StateMetadata())
	s.opened.Store(&openedStore{Store: store, config: config, metrics: s.metrics.State(config.label(), config.Bucket)})
	return nil
}

// Features lists what the store can do.
func (s *StateStore) Features() []contribstate.Feature {
	return []contribstate.Feature{
		contribstate.FeatureETag, contribstate.FeatureTransactional, contribstate.FeatureTTL, contribstate.FeatureQueryAPI,
	}
}

// Close does nothing: the Backend owns the store.
func (s *StateStore) Close() error { return nil }

// Ping returns an error unless the store can be read.
func (s *StateStore) Ping(ctx context.Context) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	_, err = store.Get(ctx, probeKey)
	return err
}

func (s *StateStore) ready() (*openedStore, error) {
	if store := s.opened.Load(); store != nil {
		return store, nil
	}
	return nil, ErrNotInitialized
}

// Get returns a response without an ETag if there is no such key.
func (s *StateStore) Get(ctx context.Context, req *contribstate.GetRequest) (*contribstate.GetResponse, error) {
	store, err := s.ready()
	if err != nil {
		return nil, err
	}
	item, err := store.Get(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	if !item.Found {
		return &contribstate.GetResponse{}, nil
	}
	store.metrics.Read(len(item.Value))
	return &contribstate.GetResponse{
		Data:        item.Value,
		ETag:        new(item.ETag),
		Metadata:    itemMetadata(&item),
		ContentType: optional(item.ContentType),
	}, nil
}

// BulkGet returns one response for each request, in order. What is wrong with one item is its Error; so is that it finds
// no room in an answer that a sidecar can receive. Keys that alone are too much for an answer are an invalid.Error.
func (s *StateStore) BulkGet(ctx context.Context, reqs []contribstate.GetRequest, _ contribstate.BulkGetOpts) ([]contribstate.BulkGetResponse, error) {
	store, err := s.ready()
	if err != nil {
		return nil, err
	}
	room := receiveLimit
	for i := range reqs {
		room -= len(reqs[i].Key) + len(noRoomError) + itemOverhead
	}
	if room < 0 {
		return nil, invalid.New("items", fmt.Sprintf("%d keys", len(reqs)), "as many keys as an answer of 4 MiB can hold; ask for fewer at once")
	}

	keys := make([]string, len(reqs))
	for i := range reqs {
		keys[i] = reqs[i].Key
	}
	items, err := store.GetMany(ctx, keys, room)
	if err != nil {
		return nil, err
	}
	for i := range items {
		room -= items[i].Size()
		if items[i].Found {
			store.metrics.Read(len(items[i].Value))
		}
	}
	answer := make([]contribstate.BulkGetResponse, len(items))
	for i := range items {
		answer[i] = bulkItem(&items[i], &room)
	}
	return answer, nil
}

// bulkItem takes what an error needs beyond noRoomError from the room that is left.
func bulkItem(item *statestore.Item, room *int) contribstate.BulkGetResponse {
	r := contribstate.BulkGetResponse{Key: item.Key}
	switch {
	case errors.Is(item.Err, statestore.ErrNoRoom):
		r.Error = noRoomError
	case item.Err != nil:
		r.Error = errorText(item.Err)
		if extra := len(r.Error) - len(noRoomError); extra > *room {
			r.Error = noRoomError
		} else {
			*room -= max(extra, 0)
		}
	case item.Found:
		r.Data, r.ETag = item.Value, &item.ETag
		r.Metadata, r.ContentType = itemMetadata(item), optional(item.ContentType)
	}
	return r
}

// Set stores a value; what is not bytes already is stored as JSON. An ETag that does not match is a
// contribstate.ETagError.
func (s *StateStore) Set(ctx context.Context, req *contribstate.SetRequest) error {
	return single(ctx, s, req, setOf)
}

// Delete removes a key, or returns a contribstate.ETagError.
func (s *StateStore) Delete(ctx context.Context, req *contribstate.DeleteRequest) error {
	return single(ctx, s, req, deleteOf)
}

func single[R contribstate.StateRequest](ctx context.Context, s *StateStore, req R, read func(R) (statestore.Write, error)) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	w, err := read(req)
	if err != nil {
		return err
	}
	t := store.transaction(req.GetMetadata(), req.GetKey())
	t.Writes = []statestore.Write{w}
	store.measure(t.Writes)
	return stateError(store.Apply(ctx, t))
}

// BulkSet takes the sets that name the same idempotency key as one transaction, at the place of the first of them, and
// every other set on its own. The error joins a contribstate.BulkStoreError for each transaction that failed, with the key
// of its first set.
func (s *StateStore) BulkSet(ctx context.Context, reqs []contribstate.SetRequest, _ contribstate.BulkStoreOpts) error {
	return bulk(ctx, s, reqs, setOf)
}

// BulkDelete is to Delete what BulkSet is to Set.
func (s *StateStore) BulkDelete(ctx context.Context, reqs []contribstate.DeleteRequest, _ contribstate.BulkStoreOpts) error {
	return bulk(ctx, s, reqs, deleteOf)
}

func bulk[R any, P interface {
	*R
	contribstate.StateRequest
}](ctx context.Context, s *StateStore, reqs []R, read func(P) (statestore.Write, error)) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	transactions := make([]statestore.Transaction, 0, len(reqs))
	first := make([]string, 0, len(reqs)) // the key of each transaction's first request
	refused := make(map[int]error)        // by the transaction's place
	places := make(map[string]int)        // of transactions with an idempotency key
	for i := range reqs {
		req := P(&reqs[i])
		t := store.transaction(req.GetMetadata(), req.GetKey())
		at, begun := places[t.IdempotencyKey]
		if !begun {
			at = len(transactions)
			transactions, first = append(transactions, t), append(first, req.GetKey())
			if t.IdempotencyKey != "" {
				places[t.IdempotencyKey] = at
			}
		}
		w, err := read(req)
		if err != nil && refused[at] == nil {
			refused[at] = err
		}
		transactions[at].Writes = append(transactions[at].Writes, w)
	}
	for at := range refused {
		transactions[at].Writes = nil
	}
	for i := range transactions {
		store.measure(transactions[i].Writes)
	}
	var failed []error
	for at, err := range store.ApplyEach(ctx, transactions) {
		if err = cmp.Or(refused[at], err); err != nil {
			failed = append(failed, contribstate.NewBulkStoreError(first[at], stateError(err)))
		}
	}
	return errors.Join(failed...)
}

// Multi takes all operations as one transaction.
func (s *StateStore) Multi(ctx context.Context, req *contribstate.TransactionalStateRequest) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	writes := make([]statestore.Write, len(req.Operations))
	for i, op := range req.Operations {
		switch op := op.(type) {
		case contribstate.SetRequest:
			writes[i], err = setOf(&op)
		case contribstate.DeleteRequest:
			writes[i], err = deleteOf(&op)
		}
		if err != nil {
			return fmt.Errorf("operations[%d]: %w", i, err)
		}
		if id := property(op.GetMetadata(), keyIdempotencyKey); id != "" {
			return invalid.New(fmt.Sprintf("operations[%d].%s", i, keyIdempotencyKey), id, "empty: an idempotency key is for a transaction as a whole")
		}
	}
	if len(writes) == 0 {
		return nil
	}
	t := store.transaction(req.Metadata, writes[0].Key)
	t.Writes = writes
	store.measure(writes)
	return stateError(store.Apply(ctx, t))
}

// MultiMaxSize is the most operations that one transaction may have: how many depends on the engine.
func (s *StateStore) MultiMaxSize() int {
	if store := s.opened.Load(); store != nil {
		return store.Limits().MaxTransactionSize
	}
	return statestore.MaxTransactionSize
}

func setOf(req *contribstate.SetRequest) (statestore.Write, error) {
	if err := contribstate.CheckRequestOptions(contribstate.SetStateOption{Concurrency: req.Options.Concurrency}); err != nil {
		return statestore.Write{}, concurrencyError(req.Options.Concurrency)
	}
	value, err := stateutils.Marshal(req.Value, json.Marshal)
	if err != nil {
		return statestore.Write{}, invalid.New("value", fmt.Sprintf("of type %T", req.Value), "bytes, or what can be written as JSON: "+err.Error())
	}
	ttl, err := ttlInSeconds(req.Metadata, -1)
	if err != nil {
		return statestore.Write{}, err
	}
	return statestore.Write{
		Op:          statestore.OpSet,
		Key:         req.Key,
		Value:       value,
		ETag:        required(req.ETag),
		ContentType: contentTypeOf(req),
		FirstWrite:  req.Options.Concurrency == contribstate.FirstWrite,
		TTL:         ttl,
	}, nil
}

func deleteOf(req *contribstate.DeleteRequest) (statestore.Write, error) {
	if err := contribstate.CheckRequestOptions(contribstate.DeleteStateOption{Concurrency: req.Options.Concurrency}); err != nil {
		return statestore.Write{}, concurrencyError(req.Options.Concurrency)
	}
	return statestore.Write{Op: statestore.OpDelete, Key: req.Key, ETag: required(req.ETag)}, nil
}

// appSeparator ends the part of a state key that Dapr puts before the app's own, by default the app id
// (https://docs.dapr.io/developing-applications/building-blocks/state-management/howto-share-state/).
const appSeparator = "||"

// transaction returns one without writes yet, under the idempotency key that a request's metadata names, in the scope of
// the app whose state key is given. Two apps that handle one event under its id both mean their own effect.
func (s *openedStore) transaction(metadata map[string]string, key string) statestore.Transaction {
	id := property(metadata, keyIdempotencyKey)
	if app, _, scoped := strings.Cut(key, appSeparator); scoped && id != "" {
		id = app + appSeparator + id
	}
	return statestore.Transaction{IdempotencyKey: id, IdempotencyWindow: s.config.IdempotencyWindow}
}

// measure takes the sizes of what is to be set.
func (s *openedStore) measure(writes []statestore.Write) {
	for i := range writes {
		if writes[i].Op == statestore.OpSet {
			s.metrics.Written(len(writes[i].Value))
		}
	}
}

func concurrencyError(value string) error {
	return invalid.New("concurrency", value, contribstate.FirstWrite+" or "+contribstate.LastWrite)
}

// contentTypeOf prefers the metadata over the field, as Dapr does.
func contentTypeOf(req *contribstate.SetRequest) string {
	if hidden, ok := req.Metadata[hiddenContentType]; ok {
		return hidden
	}
	if ct := property(req.Metadata, keyContentType); ct != "" {
		return ct
	}
	return required(req.ContentType)
}

// ttlInSeconds reads a time to live of least seconds or more; anything below 1 is none.
func ttlInSeconds(metadata map[string]string, least int64) (time.Duration, error) {
	value := property(metadata, keyTTLInSeconds)
	if value == "" {
		return 0, nil
	}
	const most = int64(statestore.MaxTTL / time.Second)
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds < least || seconds > most {
		allowed := fmt.Sprintf("a whole number of seconds from 1 to %d", most)
		if least < 0 {
			allowed += ", or -1 for no end"
		}
		return 0, invalid.New(keyTTLInSeconds, value, allowed)
	}
	return time.Duration(max(seconds, 0)) * time.Second, nil
}

func itemMetadata(item *statestore.Item) map[string]string {
	if item.Expires.IsZero() {
		return nil
	}
	return map[string]string{contribstate.GetRespMetaKeyTTLExpireTime: item.Expires.UTC().Format(time.RFC3339)}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func required(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
