package component

import (
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

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Bounds of a BulkGet's answer, in bytes.
const (
	// receiveLimit is what a sidecar can receive in one message, whatever its own limits say: gRPC's default.
	receiveLimit = 4 << 20
	// itemOverhead is more than the encoding adds to the parts of one item, ttlExpireTime included.
	itemOverhead = 128
)

// bulkGetStep is how many values a BulkGet reads at a time, and so bounds what it holds beyond its answer.
const bulkGetStep = 16

const noRoomError = "not read: the answer to a bulk get is limited to 4 MiB and has no room for this value; get it on its own"

// probeKey is what Ping reads. It need not exist.
const probeKey = "ping"

// StateStore is Dapr's state store component on a Backend. Its methods may be called from any goroutine once Init has
// returned. Reads are always strongly consistent, whatever a request asks for.
type StateStore struct {
	backend  Backend
	defaults Defaults
	log      *slog.Logger
	opened   atomic.Pointer[openedStore]
}

type openedStore struct {
	*statestore.Store
	config stateConfig
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
	return &StateStore{backend: backend, defaults: opts.Defaults, log: opts.Logger}
}

// Init opens the store that the metadata names. Metadata that is not allowed is a ValueError.
func (s *StateStore) Init(ctx context.Context, metadata contribstate.Metadata) error {
	config, err := parseStateConfig(metadata.Properties, s.defaults)
	if err != nil {
		return fmt.Errorf("initialize state store: %w", err)
	}
	store, err := s.backend.StateStore(ctx, config.Database, config.Bucket)
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
	warnUnknown(s.log, metadata.Properties, StateMetadata(s.defaults))
	s.opened.Store(&openedStore{Store: store, config: config})
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
	return &contribstate.GetResponse{
		Data:        item.Value,
		ETag:        new(item.ETag),
		Metadata:    itemMetadata(&item),
		ContentType: optional(item.ContentType),
	}, nil
}

// BulkGet returns one response for each request, in order. What is wrong with one item is its Error; so is that it finds
// no room in an answer that a sidecar can receive. Keys that alone are too much for an answer are a ValueError.
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
		return nil, &ValueError{Field: "items", Value: fmt.Sprintf("%d keys", len(reqs)), Allowed: "as many keys as an answer of 4 MiB can hold; ask for fewer at once"}
	}

	answer := make([]contribstate.BulkGetResponse, 0, len(reqs))
	for start := 0; start < len(reqs); start += bulkGetStep {
		step := reqs[start:min(start+bulkGetStep, len(reqs))]
		keys := make([]string, len(step))
		for i := range step {
			keys[i] = step[i].Key
		}
		items, err := store.GetMany(ctx, keys)
		if err != nil {
			return nil, err
		}
		for i := range items {
			answer = append(answer, bulkItem(&items[i], &room))
		}
	}
	return answer, nil
}

// bulkItem takes what the item needs beyond its own error from the room that is left.
func bulkItem(item *statestore.Item, room *int) contribstate.BulkGetResponse {
	r := contribstate.BulkGetResponse{Key: item.Key}
	switch need := len(item.Value) + len(item.ETag) + len(item.ContentType); {
	case item.Err != nil:
		r.Error = errorText(item.Err)
		if extra := len(r.Error) - len(noRoomError); extra > *room {
			r.Error = noRoomError
		} else {
			*room -= max(extra, 0)
		}
	case !item.Found:
	case need > *room:
		r.Error = noRoomError
	default:
		*room -= need
		r.Data, r.ETag = item.Value, &item.ETag
		r.Metadata, r.ContentType = itemMetadata(item), optional(item.ContentType)
	}
	return r
}

// Set stores a value; what is not bytes already is stored as JSON. An ETag that does not match is a
// contribstate.ETagError.
func (s *StateStore) Set(ctx context.Context, req *contribstate.SetRequest) error {
	return s.single(ctx, func(c *stateConfig) (statestore.Write, error) { return c.set(req) })
}

// Delete removes a key, or returns a contribstate.ETagError.
func (s *StateStore) Delete(ctx context.Context, req *contribstate.DeleteRequest) error {
	return s.single(ctx, func(c *stateConfig) (statestore.Write, error) { return c.delete(req) })
}

func (s *StateStore) single(ctx context.Context, write func(*stateConfig) (statestore.Write, error)) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	w, err := write(&store.config)
	if err != nil {
		return err
	}
	return stateError(store.ApplyEach(ctx, []statestore.Write{w})[0])
}

// BulkSet takes each set on its own, all in one commit. The error joins a contribstate.BulkStoreError for each that failed.
func (s *StateStore) BulkSet(ctx context.Context, reqs []contribstate.SetRequest, _ contribstate.BulkStoreOpts) error {
	return bulk(ctx, s, reqs, (*stateConfig).set)
}

// BulkDelete is to Delete what BulkSet is to Set.
func (s *StateStore) BulkDelete(ctx context.Context, reqs []contribstate.DeleteRequest, _ contribstate.BulkStoreOpts) error {
	return bulk(ctx, s, reqs, (*stateConfig).delete)
}

func bulk[R contribstate.StateRequest](ctx context.Context, s *StateStore, reqs []R, write func(*stateConfig, *R) (statestore.Write, error)) error {
	store, err := s.ready()
	if err != nil {
		return err
	}
	var failed []error
	fail := func(req *R, err error) {
		failed = append(failed, contribstate.NewBulkStoreError((*req).GetKey(), stateError(err)))
	}
	writes := make([]statestore.Write, 0, len(reqs))
	accepted := make([]*R, 0, len(reqs))
	for i := range reqs {
		w, err := write(&store.config, &reqs[i])
		if err != nil {
			fail(&reqs[i], err)
			continue
		}
		writes, accepted = append(writes, w), append(accepted, &reqs[i])
	}
	for i, err := range store.ApplyEach(ctx, writes) {
		if err != nil {
			fail(accepted[i], err)
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
			writes[i], err = store.config.set(&op)
		case contribstate.DeleteRequest:
			writes[i], err = store.config.delete(&op)
		default:
			err = &ValueError{Field: "operation", Value: fmt.Sprintf("%T", op), Allowed: "a set or a delete"}
		}
		if err != nil {
			return fmt.Errorf("operations[%d]: %w", i, err)
		}
	}
	return stateError(store.Apply(ctx, writes, statestore.TransactionOptions{
		IdempotencyKey:    idempotencyKey(req.Metadata, writes),
		IdempotencyWindow: store.config.IdempotencyWindow,
	}))
}

// MultiMaxSize is the most operations that one transaction may have.
func (s *StateStore) MultiMaxSize() int { return statestore.MaxTransactionSize }

func (c *stateConfig) set(req *contribstate.SetRequest) (statestore.Write, error) {
	if err := contribstate.CheckRequestOptions(contribstate.SetStateOption{Concurrency: req.Options.Concurrency}); err != nil {
		return statestore.Write{}, concurrencyError(req.Options.Concurrency)
	}
	if req.Value == nil {
		return statestore.Write{}, &ValueError{Field: "value", Value: "nil", Allowed: "bytes, or what can be written as JSON"}
	}
	value, err := stateutils.Marshal(req.Value, json.Marshal)
	if err != nil {
		return statestore.Write{}, &ValueError{Field: "value", Value: fmt.Sprintf("of type %T", req.Value), Allowed: "bytes, or what can be written as JSON: " + err.Error()}
	}
	ttl, err := ttlInSeconds(req.Metadata, -1)
	if err != nil {
		return statestore.Write{}, err
	}
	return withIdempotency(req.Metadata, c, statestore.Write{
		Op:          statestore.OpSet,
		Key:         req.Key,
		Value:       value,
		ETag:        required(req.ETag),
		ContentType: contentTypeOf(req),
		FirstWrite:  req.Options.Concurrency == contribstate.FirstWrite,
		TTL:         ttl,
	}), nil
}

func (c *stateConfig) delete(req *contribstate.DeleteRequest) (statestore.Write, error) {
	if err := contribstate.CheckRequestOptions(contribstate.DeleteStateOption{Concurrency: req.Options.Concurrency}); err != nil {
		return statestore.Write{}, concurrencyError(req.Options.Concurrency)
	}
	return withIdempotency(req.Metadata, c, statestore.Write{
		Op:   statestore.OpDelete,
		Key:  req.Key,
		ETag: required(req.ETag),
	}), nil
}

// withIdempotency completes a write by the key that its request's metadata names, if any.
func withIdempotency(metadata map[string]string, c *stateConfig, w statestore.Write) statestore.Write {
	w.IdempotencyKey = idempotencyKey(metadata, []statestore.Write{w})
	w.IdempotencyWindow = c.IdempotencyWindow
	return w
}

// appSeparator ends the part of a state key that Dapr puts before the app's own, by default the app id
// (https://docs.dapr.io/developing-applications/building-blocks/state-management/howto-share-state/).
const appSeparator = "||"

// idempotencyKey is the one that metadata names, in the scope of the app whose state is written. Two apps that handle
// one event under its id both mean their own effect.
func idempotencyKey(metadata map[string]string, writes []statestore.Write) string {
	key := property(metadata, keyIdempotencyKey)
	if key == "" || len(writes) == 0 {
		return key
	}
	if app, _, scoped := strings.Cut(writes[0].Key, appSeparator); scoped {
		return app + appSeparator + key
	}
	return key
}

func concurrencyError(value string) error {
	return &ValueError{Field: "concurrency", Value: value, Allowed: contribstate.FirstWrite + " or " + contribstate.LastWrite}
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
		return 0, &ValueError{Field: keyTTLInSeconds, Value: value, Allowed: allowed}
	}
	return time.Duration(max(seconds, 0)) * time.Second, nil
}

func itemMetadata(item *statestore.Item) map[string]string {
	if item.ExpiresAt.IsZero() {
		return nil
	}
	return map[string]string{contribstate.GetRespMetaKeyTTLExpireTime: item.ExpiresAt.UTC().Format(time.RFC3339)}
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
