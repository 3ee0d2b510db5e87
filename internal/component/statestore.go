package component

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
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

// keyTTLExpireTime is where an answer's metadata say when a key expires (components-contrib, state/responses.go).
const keyTTLExpireTime = "ttlExpireTime"

// stateFeatures are in Dapr's words (components-contrib, state/feature.go).
var stateFeatures = []string{"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"}

// probeKey is what Ping reads. It need not exist.
const probeKey = "ping"

// stateService serves Dapr's protocol of state stores. A call is for the state store that its connection has initialized
// (Server.bind).
// Reads are always strongly consistent, whatever a request asks for.
type stateService struct{ server *Server }

// stateStore is the store that a component's metadata name.
type stateStore struct {
	*statestore.Store
	place             servers.Place
	idempotencyWindow time.Duration
	metrics           *metrics.State
}

// Init opens the store that the metadata names. Metadata that is not allowed is an invalid.Error.
func (s stateService) Init(ctx context.Context, req *proto.InitRequest) (*proto.InitResponse, error) {
	c, properties := callOf(ctx), req.GetMetadata().GetProperties()
	if err := checkInitMetadata(properties); err != nil {
		return nil, err
	}
	store, err := s.server.openStateStore(ctx, c, properties)
	if err != nil {
		return nil, err
	}
	c.conn.session.Initialized(sidecars.State, c.component, properties)
	c.conn.state.Store(store)
	return &proto.InitResponse{}, nil
}

func (s *Server) openStateStore(ctx context.Context, c *call, properties map[string]string) (_ *stateStore, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("initialize state store: %w", err)
		}
	}()
	config, err := parseStateConfig(properties)
	if err != nil {
		return nil, err
	}
	place, err := config.place()
	if err != nil {
		return nil, err
	}
	store, err := s.opts.Backend.StateStoreAt(ctx, place)
	if err != nil {
		return nil, err
	}
	if config.CleanupInterval != statestore.DefaultCleanupInterval {
		if err := store.SetCleanupInterval(config.CleanupInterval); err != nil {
			return nil, err
		}
	}
	if err := store.AddQueryIndexes(config.QueryIndexes...); err != nil {
		return nil, err
	}
	var ofOtherEngine []Field
	if place.Etcd == nil {
		ofOtherEngine = fieldsOf(etcdFields)
	}
	warnUnused(s.logOf(c), properties, StateMetadata(), ofOtherEngine)
	return &stateStore{Store: store, place: place, idempotencyWindow: config.IdempotencyWindow, metrics: s.opts.Metrics.State(place.Label(), place.Bucket)}, nil
}

// Features lists what the store can do, which does not depend on its Init.
func (stateService) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{Features: stateFeatures}, nil
}

// Ping returns an error unless the store can be read.
func (stateService) Ping(ctx context.Context, _ *proto.PingRequest) (*proto.PingResponse, error) {
	if _, err := callOf(ctx).store.Get(ctx, probeKey); err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return &proto.PingResponse{}, nil
}

// Get returns a response without an ETag if there is no such key.
func (stateService) Get(ctx context.Context, req *proto.GetRequest) (*proto.GetResponse, error) {
	store := callOf(ctx).store
	item, err := store.Get(ctx, req.GetKey())
	if err != nil {
		return nil, err
	}
	if !item.Found {
		return &proto.GetResponse{}, nil
	}
	store.metrics.Read(len(item.Value))
	return &proto.GetResponse{
		Data:        item.Value,
		Etag:        &proto.Etag{Value: item.ETag},
		Metadata:    itemMetadata(&item),
		ContentType: item.ContentType,
	}, nil
}

// BulkGet answers each item, in order. What is wrong with one item is its Error; so is that it finds no room in an answer
// that a sidecar can receive. Keys that alone are too much for an answer are an invalid.Error.
func (stateService) BulkGet(ctx context.Context, req *proto.BulkGetRequest) (*proto.BulkGetResponse, error) {
	store := callOf(ctx).store
	room := receiveLimit
	keys := make([]string, len(req.GetItems()))
	for i, item := range req.GetItems() {
		keys[i] = item.GetKey()
		room -= len(keys[i]) + len(noRoomError) + itemOverhead
	}
	if room < 0 {
		return nil, invalid.New("items", fmt.Sprintf("%d keys", len(keys)), "as many keys as an answer of 4 MiB can hold; ask for fewer at once")
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
	answer := &proto.BulkGetResponse{Items: make([]*proto.BulkStateItem, len(items))}
	for i := range items {
		answer.Items[i] = bulkItem(&items[i], &room)
	}
	return answer, nil
}

// bulkItem takes what an error needs beyond noRoomError from the room that is left.
func bulkItem(item *statestore.Item, room *int) *proto.BulkStateItem {
	r := &proto.BulkStateItem{Key: item.Key}
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
		r.Data, r.Etag = item.Value, &proto.Etag{Value: item.ETag}
		r.Metadata, r.ContentType = itemMetadata(item), item.ContentType
	}
	return r
}

// Set stores a value. An ETag that does not match is a statestore.ETagMismatchError.
func (stateService) Set(ctx context.Context, req *proto.SetRequest) (*proto.SetResponse, error) {
	return &proto.SetResponse{}, callOf(ctx).store.apply(ctx, setOf(req))
}

// Delete removes a key. An ETag that does not match is a statestore.ETagMismatchError.
func (stateService) Delete(ctx context.Context, req *proto.DeleteRequest) (*proto.DeleteResponse, error) {
	return &proto.DeleteResponse{}, callOf(ctx).store.apply(ctx, deleteOf(req))
}

func (s *stateStore) apply(ctx context.Context, r request) error {
	if r.refused != nil {
		return r.refused
	}
	return s.applyAll(ctx, r.metadata, []statestore.Write{r.write})
}

func (s *stateStore) applyAll(ctx context.Context, metadata map[string]string, writes []statestore.Write) error {
	t := s.transaction(metadata, writes[0].Key)
	t.Writes = writes
	s.measure(writes)
	return s.Apply(ctx, t)
}

// BulkSet takes the sets that name the same idempotency key as one transaction, at the place of the first of them, and
// every other set on its own. The error joins what was wrong with each transaction that failed.
func (stateService) BulkSet(ctx context.Context, req *proto.BulkSetRequest) (*proto.BulkSetResponse, error) {
	return &proto.BulkSetResponse{}, callOf(ctx).store.applyEach(ctx, requestsOf(req.GetItems(), setOf))
}

// BulkDelete is to Delete what BulkSet is to Set.
func (stateService) BulkDelete(ctx context.Context, req *proto.BulkDeleteRequest) (*proto.BulkDeleteResponse, error) {
	return &proto.BulkDeleteResponse{}, callOf(ctx).store.applyEach(ctx, requestsOf(req.GetItems(), deleteOf))
}

func (s *stateStore) applyEach(ctx context.Context, requests []request) error {
	transactions := make([]statestore.Transaction, 0, len(requests))
	refused := make(map[int]error) // by the transaction's place
	places := make(map[string]int) // of transactions with an idempotency key
	for _, r := range requests {
		t := s.transaction(r.metadata, r.write.Key)
		at, begun := places[t.IdempotencyKey]
		if !begun {
			at = len(transactions)
			transactions = append(transactions, t)
			if t.IdempotencyKey != "" {
				places[t.IdempotencyKey] = at
			}
		}
		if r.refused != nil && refused[at] == nil {
			refused[at] = r.refused
		}
		transactions[at].Writes = append(transactions[at].Writes, r.write)
	}
	for at := range refused {
		transactions[at].Writes = nil
	}
	for i := range transactions {
		s.measure(transactions[i].Writes)
	}
	var failed []error
	for at, err := range s.ApplyEach(ctx, transactions) {
		if err = cmp.Or(refused[at], err); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// Transact takes all operations as one transaction.
func (stateService) Transact(ctx context.Context, req *proto.TransactionalStateRequest) (*proto.TransactionalStateResponse, error) {
	writes := make([]statestore.Write, len(req.GetOperations()))
	for i, op := range req.GetOperations() {
		var r request
		switch op := op.GetRequest().(type) {
		case *proto.TransactionalStateOperation_Set:
			r = setOf(op.Set)
		case *proto.TransactionalStateOperation_Delete:
			r = deleteOf(op.Delete)
		default:
			return nil, invalid.New(fmt.Sprintf("operations[%d]", i), "", "a set or a delete")
		}
		if r.refused != nil {
			return nil, fmt.Errorf("operations[%d]: %w", i, r.refused)
		}
		if id := property(r.metadata, keyIdempotencyKey); id != "" {
			return nil, invalid.New(fmt.Sprintf("operations[%d].%s", i, keyIdempotencyKey), id, "empty: an idempotency key is for a transaction as a whole")
		}
		writes[i] = r.write
	}
	if len(writes) == 0 {
		return &proto.TransactionalStateResponse{}, nil
	}
	return &proto.TransactionalStateResponse{}, callOf(ctx).store.applyAll(ctx, req.GetMetadata(), writes)
}

// MultiMaxSize answers the most operations that one transaction may have: how many depends on the engine.
func (stateService) MultiMaxSize(ctx context.Context, _ *proto.MultiMaxSizeRequest) (*proto.MultiMaxSizeResponse, error) {
	return &proto.MultiMaxSizeResponse{MaxSize: int64(callOf(ctx).store.Limits().MaxTransactionSize)}, nil
}

// request is one set or delete, on its own or as part of a call.
type request struct {
	write    statestore.Write
	metadata map[string]string
	// refused is what is wrong with it.
	refused error
}

func requestsOf[R any](items []R, read func(R) request) []request {
	requests := make([]request, len(items))
	for i, item := range items {
		requests[i] = read(item)
	}
	return requests
}

func setOf(req *proto.SetRequest) request {
	metadata := req.GetMetadata()
	ttl, err := ttlInSeconds(metadata, -1)
	return request{
		write: statestore.Write{
			Op:    statestore.OpSet,
			Key:   req.GetKey(),
			Value: req.GetValue(),
			ETag:  req.GetEtag().GetValue(),
			// Dapr, too, prefers the metadata over the field.
			ContentType: cmp.Or(property(metadata, keyContentType), req.GetContentType()),
			FirstWrite:  req.GetOptions().GetConcurrency() == proto.StateOptions_CONCURRENCY_FIRST_WRITE,
			TTL:         ttl,
		},
		metadata: metadata,
		refused:  err,
	}
}

func deleteOf(req *proto.DeleteRequest) request {
	return request{
		write:    statestore.Write{Op: statestore.OpDelete, Key: req.GetKey(), ETag: req.GetEtag().GetValue()},
		metadata: req.GetMetadata(),
	}
}

// transaction returns one without writes yet, under the idempotency key that a request's metadata names, in the scope of
// the app whose state key is given. Two apps that handle one event under its id both mean their own effect.
func (s *stateStore) transaction(metadata map[string]string, key string) statestore.Transaction {
	id := property(metadata, keyIdempotencyKey)
	if app, _, scoped := strings.Cut(key, statestore.AppSeparator); scoped && id != "" {
		id = app + statestore.AppSeparator + id
	}
	return statestore.Transaction{IdempotencyKey: id, IdempotencyWindow: s.idempotencyWindow}
}

// measure takes the sizes of what is to be set.
func (s *stateStore) measure(writes []statestore.Write) {
	for i := range writes {
		if writes[i].Op == statestore.OpSet {
			s.metrics.Written(len(writes[i].Value))
		}
	}
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
			allowed += ", or 0 or -1 for no end"
		}
		return 0, invalid.New(keyTTLInSeconds, value, allowed)
	}
	return time.Duration(max(seconds, 0)) * time.Second, nil
}

func itemMetadata(item *statestore.Item) map[string]string {
	if item.Expires.IsZero() {
		return nil
	}
	return map[string]string{keyTTLExpireTime: item.Expires.UTC().Format(time.RFC3339)}
}
