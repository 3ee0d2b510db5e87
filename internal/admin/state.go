package admin

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Index is an index of a state bucket.
type Index struct {
	Path string `json:"path"`
	// Complete says that queries use it; else building it has dealt with so many Keys.
	Complete bool      `json:"complete"`
	Keys     uint64    `json:"keys"`
	Expires  time.Time `json:"expires,omitzero"`
}

// StateInfo is what there is to say of a state bucket.
type StateInfo struct {
	Bucket
	Indexes []Index `json:"indexes"`
}

// PageRequest selects a page of a state bucket.
type PageRequest struct {
	Bucket
	// After is Next of the page before.
	After string `json:"after,omitempty"`
	// Limit of a page. Default: DefaultPageSize.
	Limit int `json:"limit,omitempty"`
}

// Apps are the ids of apps that have keys.
type Apps struct {
	Apps []string `json:"apps"`
	Next string   `json:"next,omitempty"`
}

// KeysRequest selects keys.
type KeysRequest struct {
	PageRequest
	// Prefix is what they begin with; an app's begin with its id and ||.
	Prefix string `json:"prefix,omitempty"`
}

// KeyPage is a page of keys.
type KeyPage struct {
	Keys []Key `json:"keys"`
	// Next is what to continue after; empty: there are no more.
	Next string `json:"next,omitempty"`
}

// Key is a key and what belongs to its value.
type Key struct {
	Key         string    `json:"key"`
	ETag        string    `json:"etag"`
	ContentType string    `json:"contentType,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
	// Size is the value's in bytes.
	Size int `json:"size"`
	// Damaged says why the value cannot be read; a set or a delete without an ETag repairs it.
	Damaged string `json:"damaged,omitempty"`
}

// Value is a key with its value.
type Value struct {
	Key
	Content
}

// KeyRequest names a key.
type KeyRequest struct {
	Bucket
	Key string `json:"key"`
}

// SetRequest is a value to set.
type SetRequest struct {
	Bucket
	Key string `json:"key"`
	Content
	ContentType string `json:"contentType,omitempty"`
	// ETag is the version that the key must be in; empty: the key must be new, unless Force.
	ETag string `json:"etag,omitempty"`
	// Force sets it whatever is there.
	Force bool `json:"force,omitempty"`
	// TTLInSeconds 0: the key stays.
	TTLInSeconds int `json:"ttlInSeconds,omitempty"`
}

// DeleteRequest names a key to delete.
type DeleteRequest struct {
	Bucket
	Key string `json:"key"`
	// ETag is the version that the key must be in. Required, unless Force.
	ETag string `json:"etag,omitempty"`
	// Force deletes it whatever is there.
	Force bool `json:"force,omitempty"`
}

// IdempotencyPage is a page of idempotency keys.
type IdempotencyPage struct {
	Keys []IdempotencyKey `json:"keys"`
	Next string           `json:"next,omitempty"`
}

// IdempotencyKey is one that is remembered, of which only the SHA-256 is kept, here in hexadecimal digits.
type IdempotencyKey struct {
	SHA256  string    `json:"sha256"`
	Expires time.Time `json:"expires,omitzero"`
}

// QueryRequest is a query in the JSON of Dapr's state API: filter, sort and page.
type QueryRequest struct {
	Bucket
	Query json.RawMessage `json:"query"`
}

// QueryResult is a page of what a query has found.
type QueryResult struct {
	Items []Value `json:"items"`
	// Token asks for the page after; empty: there is none.
	Token string `json:"token,omitempty"`
	// Took is how long it took, in nanoseconds.
	Took time.Duration `json:"took"`
	// Index is the path of the index that has served it; empty: it has read every value.
	Index string `json:"index,omitempty"`
}

// RemoveBucketRequest names a bucket to remove.
type RemoveBucketRequest struct {
	// Kind is state or pubsub.
	Kind string `json:"kind"`
	Bucket
}

// stateBucket says what there is to say of a bucket.
func (s *Service) stateBucket(ctx context.Context, store *statestore.Store, bucket Bucket) (StateInfo, error) {
	answer := StateInfo{Bucket: bucket, Indexes: []Index{}}
	indexes, err := store.Indexes(ctx)
	for _, x := range indexes {
		answer.Indexes = append(answer.Indexes, Index{Path: x.Path, Complete: x.Complete, Keys: x.Keys, Expires: x.Expires})
	}
	return answer, err
}

// apps returns a page of the apps that have keys.
func (s *Service) apps(ctx context.Context, store *statestore.Store, request PageRequest) (answer Apps, err error) {
	limit, err := pageSize(request.Limit)
	if err != nil {
		return answer, err
	}
	answer.Apps, answer.Next, err = store.Apps(ctx, request.After, limit)
	if answer.Apps == nil {
		answer.Apps = []string{}
	}
	return answer, err
}

// keys returns a page of keys, in the order of their bytes.
func (s *Service) keys(ctx context.Context, store *statestore.Store, request KeysRequest) (KeyPage, error) {
	page := KeyPage{Keys: []Key{}}
	limit, err := pageSize(request.Limit)
	if err != nil {
		return page, err
	}
	keys, next, err := store.Keys(ctx, request.Prefix, request.After, limit)
	page.Next = next
	for i := range keys {
		page.Keys = append(page.Keys, newKey(&keys[i].Item, keys[i].Size))
	}
	return page, err
}

func newKey(item *statestore.Item, size int) Key {
	return Key{Key: item.Key, ETag: item.ETag, ContentType: item.ContentType, Expires: item.Expires, Size: size, Damaged: text(item.Err)}
}

func newValue(item *statestore.Item) Value {
	return Value{Key: newKey(item, len(item.Value)), Content: NewContent(item.Value)}
}

// value returns a key with its value.
func (s *Service) value(ctx context.Context, store *statestore.Store, request KeyRequest) (Value, error) {
	item, err := store.Get(ctx, request.Key)
	if err == nil && !item.Found {
		err = Refuse(http.StatusNotFound, "key %q: not found: by default, Dapr puts the app's id and || before an app's own key", request.Key)
	}
	if err != nil {
		return Value{}, err
	}
	return newValue(&item), nil
}

// setValue sets a key and returns what it has become.
func (s *Service) setValue(ctx context.Context, store *statestore.Store, request SetRequest) (Key, error) {
	value, err := request.Payload()
	if err != nil {
		return Key{}, err
	}
	if request.TTLInSeconds < 0 {
		return Key{}, badRequest("ttlInSeconds %d: allowed: 0 or more", request.TTLInSeconds)
	}
	write := statestore.Write{
		Op: statestore.OpSet, Key: request.Key, Value: value, ContentType: request.ContentType, ETag: request.ETag,
		FirstWrite: request.ETag == "" && !request.Force, TTL: time.Duration(request.TTLInSeconds) * time.Second,
	}
	if err := store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{write}}); err != nil {
		return Key{}, err
	}
	s.changed(ctx, "a key was set", request.Bucket, "key", request.Key)
	// Somebody may have been faster; then this is theirs.
	set, err := s.value(ctx, store, KeyRequest{request.Bucket, request.Key})
	return set.Key, err
}

// deleteValue deletes a key.
func (s *Service) deleteValue(ctx context.Context, store *statestore.Store, request DeleteRequest) (Empty, error) {
	if request.ETag == "" && !request.Force {
		return Empty{}, badRequest("etag: it is empty: allowed: the key's, or force")
	}
	write := statestore.Write{Op: statestore.OpDelete, Key: request.Key, ETag: request.ETag}
	err := store.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{write}})
	return s.done(ctx, err, "a key was deleted", request.Bucket, "key", request.Key)
}

// idempotencyKeys returns a page of the idempotency keys that are remembered.
func (s *Service) idempotencyKeys(ctx context.Context, store *statestore.Store, request PageRequest) (IdempotencyPage, error) {
	page := IdempotencyPage{Keys: []IdempotencyKey{}}
	limit, err := pageSize(request.Limit)
	if err != nil {
		return page, err
	}
	after, err := hex.DecodeString(request.After)
	if err != nil {
		return page, badRequest("after %q: allowed: what the page before says in next", request.After)
	}
	keys, err := store.IdempotencyKeys(ctx, after, limit+1)
	for i, k := range keys {
		if i == limit {
			page.Next = page.Keys[i-1].SHA256
			break
		}
		page.Keys = append(page.Keys, IdempotencyKey{SHA256: hex.EncodeToString(k.SHA256), Expires: k.Expires})
	}
	return page, err
}

// daprQuery is a query as Dapr's state API has it.
type daprQuery struct {
	Filter any `json:"filter"`
	Sort   []struct {
		Key   string `json:"key"`
		Order string `json:"order"`
	} `json:"sort"`
	Page struct {
		Limit int    `json:"limit"`
		Token string `json:"token"`
	} `json:"page"`
}

// query runs a query. It reads every value unless an index serves it, and ends when ctx does.
func (s *Service) query(ctx context.Context, store *statestore.Store, request QueryRequest) (result QueryResult, err error) {
	var asked daprQuery
	if err := json.Unmarshal(request.Query, &asked); err != nil {
		return result, badRequest("query: allowed: an object with filter, sort and page: %w", err)
	}
	q := statestore.Query{Limit: asked.Page.Limit, Token: asked.Page.Token}
	if asked.Filter != nil {
		if q.Filter, err = statestore.ParseFilter(asked.Filter); err != nil {
			return result, err
		}
	}
	for i, by := range asked.Sort {
		descending := strings.EqualFold(by.Order, "DESC")
		if !descending && by.Order != "" && !strings.EqualFold(by.Order, "ASC") {
			return result, badRequest("sort[%d].order %q: allowed: ASC, DESC", i, by.Order)
		}
		q.Sort = append(q.Sort, statestore.SortKey{Path: by.Key, Descending: descending})
	}
	began := s.opts.Clock.Now()
	page, err := store.Query(ctx, q)
	if err != nil {
		return result, err
	}
	result = QueryResult{Items: make([]Value, len(page.Items)), Token: page.Token, Took: s.opts.Clock.Since(began), Index: page.Index}
	for i := range page.Items {
		result.Items[i] = newValue(&page.Items[i])
	}
	return result, nil
}

// removeBucket removes all that a bucket holds that no connected sidecar works on. Its name can be used again; what ids and
// ETags were given out is not forgotten.
func (s *Service) removeBucket(ctx context.Context, request RemoveBucketRequest) (Empty, error) {
	var (
		bucket interface {
			Clear(ctx context.Context) error
		}
		err error
	)
	kind := sidecars.Kind(request.Kind)
	switch kind {
	case sidecars.State:
		request.Bucket = request.StateDefaults()
		bucket, err = s.opts.Databases.ExistingStore(ctx, request.Database, request.Name)
	case sidecars.PubSub:
		request.Bucket = request.WithDefaults()
		bucket, err = s.broker(ctx, request.Bucket)
	default:
		err = badRequest("kind %q: allowed: %s, %s", request.Kind, sidecars.State, sidecars.PubSub)
	}
	if err != nil {
		return Empty{}, err
	}
	for _, sidecar := range s.connected() {
		if sidecar.Kind == kind && sidecar.Bucket == request.Bucket && sidecar.Connected {
			return Empty{}, Refuse(http.StatusConflict, "bucket %s: component %q of %s works on it: stop that first", request.Bucket, sidecar.Component, sidecar.Process)
		}
	}
	if err := bucket.Clear(ctx); err != nil {
		return Empty{}, fmt.Errorf("remove bucket %s: %w", request.Bucket, err)
	}
	return s.done(ctx, nil, "a bucket was removed", request.Bucket, "kind", request.Kind)
}
