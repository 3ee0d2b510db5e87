package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// sampleQuery is what the form begins with.
const sampleQuery = `{"filter": {"EQ": {"kind": "green"}}, "page": {"limit": 20}}`

// queryPage is what the page of a query shows.
type queryPage struct {
	admin.Bucket
	Query string
	// Error says what is wrong with the query; empty: nothing.
	Error string
	// Result is nil before a query was run.
	Result *queryResult
}

type queryResult struct {
	Items []queryRow
	// Index is the path of the index that served it; empty: every value was read.
	Index string
	Took  string
	// Token asks for the page after; empty: there is none.
	Token string
}

type queryRow struct {
	admin.Key
	Value string
}

// query runs a query in the JSON of Dapr's state API. It reads every value unless an index serves it, until pageTimeout.
func (c *Console) query(r *http.Request) (*page, error) {
	p := queryPage{Bucket: stateBucketOf(r.Form), Query: r.Form.Get("query")}
	shown := &page{Title: "Query", Section: sectionState, template: "query.html"}
	if p.Query == "" {
		p.Query = sampleQuery
		shown.Data = p
		return shown, nil
	}
	if c.opts.HideValues {
		return nil, invalid.New("query", p.Query, "none while values are hidden, as it would find them out")
	}
	found, err := admin.CallQuery.Do(r.Context(), c.opts.Service, admin.QueryRequest{Bucket: p.Bucket, Query: json.RawMessage(p.Query)})
	if err != nil && statusOf(err) == http.StatusBadRequest {
		// What was typed stays, to be put right.
		p.Error = err.Error()
		shown.status, shown.Data = http.StatusBadRequest, p
		return shown, nil
	}
	if err != nil {
		return nil, err
	}
	p.Result = &queryResult{Index: found.Index, Took: fmt.Sprintf("%.2f ms", float64(found.Took)/float64(time.Millisecond)), Token: found.Token}
	for i := range found.Items {
		item := &found.Items[i]
		data, err := item.Payload()
		if err != nil {
			return nil, err
		}
		p.Result.Items = append(p.Result.Items, queryRow{item.Key, short(string(data))})
	}
	shown.Data = p
	return shown, nil
}

// idempotencyPage is what the page of idempotency keys shows.
type idempotencyPage struct {
	admin.Bucket
	admin.IdempotencyPage
}

func (c *Console) idempotencyKeys(r *http.Request) (*page, error) {
	bucket := stateBucketOf(r.Form)
	found, err := admin.CallIdempotencyKeys.Do(r.Context(), c.opts.Service, admin.PageRequest{Bucket: bucket, After: r.Form.Get("after"), Limit: keysShown})
	if err != nil {
		return nil, err
	}
	return &page{Title: "Idempotency keys", Section: sectionState, template: "idempotency-keys.html", Data: idempotencyPage{bucket, found}}, nil
}
