package component

import (
	"context"
	"encoding/json"
	"fmt"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Query returns a page of the values that are JSON and comply with the filter, in the sort's order or else in that of
// their keys. The page has at most the limit's items (0: as many as go on a page) and is small enough for a sidecar to
// receive; what comes after it is for its token to get. A query that is not allowed is an invalid.Error or matches
// statestore.ErrInvalidArgument.
func (stateService) Query(ctx context.Context, req *proto.QueryRequest) (*proto.QueryResponse, error) {
	asked := req.GetQuery()
	filters := make(map[string]any, len(asked.GetFilter()))
	for name, filter := range asked.GetFilter() {
		var v any
		if err := json.Unmarshal(filter.GetValue(), &v); err != nil {
			return nil, invalid.New("filter."+name, string(filter.GetValue()), "JSON: "+err.Error())
		}
		filters[name] = v
	}
	filter, err := statestore.ParseFilter(filters)
	if err != nil {
		return nil, err
	}
	q := statestore.Query{Filter: filter, Limit: int(asked.GetPagination().GetLimit()), Token: asked.GetPagination().GetToken()}
	for i, by := range asked.GetSort() {
		order := by.GetOrder()
		if order != proto.Sorting_ASC && order != proto.Sorting_DESC {
			return nil, invalid.New(fmt.Sprintf("sort[%d].order", i), order.String(), fmt.Sprintf("%s or %s", proto.Sorting_ASC, proto.Sorting_DESC))
		}
		q.Sort = append(q.Sort, statestore.SortKey{Path: by.GetKey(), Descending: order == proto.Sorting_DESC})
	}
	page, err := callOf(ctx).store.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	answer := &proto.QueryResponse{Items: make([]*proto.QueryItem, len(page.Items)), Token: page.Token}
	for i := range page.Items {
		item := &page.Items[i]
		answer.Items[i] = &proto.QueryItem{
			Key: item.Key, Data: item.Value, Etag: &proto.Etag{Value: item.ETag}, ContentType: item.ContentType,
		}
	}
	return answer, nil
}
