package component

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	contribstate "github.com/dapr/components-contrib/state"
	contribquery "github.com/dapr/components-contrib/state/query"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var _ contribstate.Querier = (*StateStore)(nil)

// Query returns a page of the values that are JSON and comply with the filter, in the sort's order or else in that of
// their keys. The page has at most the limit's items (0: as many as go on a page) and is small enough for a sidecar to
// receive; what comes after it is for its token to get. A query that is not allowed is an invalid.Error or matches
// statestore.ErrInvalidArgument.
func (s *StateStore) Query(ctx context.Context, req *contribstate.QueryRequest) (*contribstate.QueryResponse, error) {
	q := statestore.Query{Limit: req.Query.Page.Limit, Token: req.Query.Page.Token}
	var err error
	if q.Filter, err = statestore.ParseFilter(req.Query.Filters); err != nil {
		return nil, err
	}
	for i, by := range req.Query.Sort {
		descending := strings.EqualFold(by.Order, contribquery.DESC)
		if !descending && by.Order != "" && !strings.EqualFold(by.Order, contribquery.ASC) {
			return nil, invalid.New(fmt.Sprintf("sort[%d].order", i), by.Order, contribquery.ASC+" or "+contribquery.DESC)
		}
		q.Sort = append(q.Sort, statestore.SortKey{Path: by.Key, Descending: descending})
	}
	store, err := s.ready()
	if err != nil {
		return nil, err
	}
	page, err := store.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	answer := &contribstate.QueryResponse{Results: make([]contribstate.QueryItem, len(page.Items)), Token: page.Token}
	for i := range page.Items {
		item := &page.Items[i]
		answer.Results[i] = contribstate.QueryItem{Key: item.Key, Data: item.Value, ETag: &item.ETag, ContentType: optional(item.ContentType)}
	}
	return answer, nil
}

// correctQuery answers a Query in the SDK's place. Faults: a query without all of its parts makes the SDK panic; what is
// wrong with a filter becomes an error without a code; and the filter goes through JSON three times more.
func correctQuery(ctx context.Context, store *StateStore, req *proto.QueryRequest) (*proto.QueryResponse, error) {
	asked := req.GetQuery()
	fields := contribquery.QueryFields{
		Filters: make(map[string]any, len(asked.GetFilter())),
		Page:    contribquery.Pagination{Limit: int(asked.GetPagination().GetLimit()), Token: asked.GetPagination().GetToken()},
	}
	for name, filter := range asked.GetFilter() {
		var v any
		if err := json.Unmarshal(filter.GetValue(), &v); err != nil {
			return nil, invalid.New("filter."+name, string(filter.GetValue()), "JSON: "+err.Error())
		}
		fields.Filters[name] = v
	}
	for _, by := range asked.GetSort() {
		fields.Sort = append(fields.Sort, contribquery.Sorting{Key: by.GetKey(), Order: by.GetOrder().String()})
	}
	page, err := store.Query(ctx, &contribstate.QueryRequest{
		Query: contribquery.Query{QueryFields: fields}, Metadata: req.GetMetadata(),
	})
	if err != nil {
		return nil, err
	}
	answer := &proto.QueryResponse{Items: make([]*proto.QueryItem, len(page.Results)), Token: page.Token}
	for i := range page.Results {
		item := &page.Results[i]
		answer.Items[i] = &proto.QueryItem{
			Key: item.Key, Data: item.Data, Etag: &proto.Etag{Value: required(item.ETag)}, ContentType: required(item.ContentType),
		}
	}
	return answer, nil
}
