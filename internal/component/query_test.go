package component

import (
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func (c *sidecar) query(q *proto.Query) (*proto.QueryResponse, error) {
	return proto.NewQueriableStateStoreClient(c.conn).Query(c.ctx, &proto.QueryRequest{Query: q})
}

// filter is a filter as the runtime sends it.
func filter(name, value string) map[string]*anypb.Any {
	return map[string]*anypb.Any{name: {Value: []byte(value)}}
}

func itemKeys(r *proto.QueryResponse) (keys []string) {
	for _, item := range r.GetItems() {
		keys = append(keys, item.GetKey())
	}
	return keys
}

func TestQuery(t *testing.T) {
	c := newHouse(t).store("a", "queryIndexes", "person.org, state")
	for key, value := range map[string]string{
		"1": `{"person":{"org":"A","n":9007199254740993},"state":"WA"}`, "2": `{"person":{"org":"B"},"state":"CA"}`,
		"3": `{"person":{"org":"A"},"state":"CA"}`, "text": "A",
	} {
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: key, Value: []byte(value), ContentType: "application/json"})
		require.NoError(t, err)
	}
	q := &proto.Query{
		Filter:     filter("OR", `[{"EQ":{"person.org":"A"}},{"IN":{"state":["CA","TX"]}}]`),
		Sort:       []*proto.Sorting{{Key: "state"}, {Key: "person.org", Order: proto.Sorting_DESC}},
		Pagination: &proto.Pagination{Limit: 2},
	}
	r, err := c.query(q)
	require.NoError(t, err)
	require.Equal(t, []string{"2", "3"}, itemKeys(r))
	require.JSONEq(t, `{"person":{"org":"B"},"state":"CA"}`, string(r.GetItems()[0].GetData()))
	require.Equal(t, "application/json", r.GetItems()[0].GetContentType())
	got, err := c.Get(c.ctx, &proto.GetRequest{Key: "2"})
	require.NoError(t, err)
	require.Equal(t, got.GetEtag().GetValue(), r.GetItems()[0].GetEtag().GetValue())
	q.Pagination.Token = r.GetToken()
	r, err = c.query(q)
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, itemKeys(r))
	require.Empty(t, r.GetToken())
}

func TestQueryWithMissingParts(t *testing.T) {
	h := newHouse(t)
	c := h.store("a")
	require.NoError(t, c.set("k", `{"a":1}`))
	for name, q := range map[string]*proto.Query{
		"query": nil, "pagination": {}, "filter": {Pagination: &proto.Pagination{}},
		"limit": {Filter: filter("EQ", `{"a":1}`), Pagination: &proto.Pagination{}},
	} {
		r, err := c.query(q)
		require.NoError(t, err, name)
		require.Equal(t, []string{"k"}, itemKeys(r), name)
	}
	require.NotContains(t, h.log.String(), "panic")
}

func TestBadQueriesAreInvalid(t *testing.T) {
	c := newHouse(t).store("a")
	nested := func(depth int) string { return strings.Repeat(`[{"AND":`, depth) + "[]" + strings.Repeat("}]", depth) }
	for text, q := range map[string]*proto.Query{
		"filter.EQ":      {Filter: filter("EQ", `{"a":`)},
		"filter.IN":      {Filter: map[string]*anypb.Any{"IN": nil}},
		"1e999":          {Filter: filter("EQ", `{"a":1e999}`)},
		`filter "LIKE"`:  {Filter: filter("LIKE", `{"a":1}`)},
		"AND of 1":       {Filter: filter("AND", `[{"EQ":{"a":1}}]`)},
		"nested":         {Filter: filter("AND", nested(40))},
		"max depth":      {Filter: filter("AND", nested(1_000_000))},
		"with 2 fields":  {Filter: map[string]*anypb.Any{"EQ": {Value: []byte(`{"a":1}`)}, "NEQ": {Value: []byte(`{"a":1}`)}}},
		"sort[0].order":  {Sort: []*proto.Sorting{{Key: "a", Order: 7}}},
		`field path ""`:  {Sort: []*proto.Sorting{{}}},
		"limit -1":       {Pagination: &proto.Pagination{Limit: -1}},
		`token "offset"`: {Pagination: &proto.Pagination{Token: "offset"}},
	} {
		_, err := c.query(q)
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%s: %v", text, err)
		require.ErrorContains(t, err, text)
	}
	_, err := newHouse(t).dial("b").query(nil)
	require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
}

func TestAPageIsOneThatASidecarReceives(t *testing.T) {
	c := newHouse(t).store("a")
	const n = 30
	for i := range n {
		require.NoError(t, c.set(fmt.Sprintf("small-%02d-%s", i, strings.Repeat("k", 16_000)), `{"a":"`+strings.Repeat("x", 200_000)+`"}`))
	}
	require.NoError(t, c.set(strings.Repeat("k", statestore.MaxKeySize), `"`+strings.Repeat("x", statestore.MaxValueSize-2)+`"`))
	seen := map[string]bool{}
	q := &proto.Query{Sort: []*proto.Sorting{{Key: "a"}}, Pagination: &proto.Pagination{}}
	for {
		r, err := c.query(q)
		require.NoError(t, err)
		for _, item := range r.GetItems() {
			require.False(t, seen[item.GetKey()])
			seen[item.GetKey()] = true
		}
		if q.Pagination.Token = r.GetToken(); r.GetToken() == "" {
			break
		}
		require.NotEmpty(t, r.GetItems())
	}
	require.Len(t, seen, n+1)
}

func TestQueryIndexesAreBuilt(t *testing.T) {
	h := newHouse(t)
	c := h.store("a", "queryIndexes", "a.b, c")
	h.store("b", "queryIndexes", "d")
	for _, path := range []string{"a.b", "c", "d"} {
		require.Eventually(t, func() bool {
			return strings.Contains(h.log.String(), fmt.Sprintf(`msg="query index is complete" database=dapr bucket=state path=%s`, path))
		}, patience, time.Millisecond)
	}
	require.NoError(t, c.set("k", `{"c":1}`))
	r, err := c.query(&proto.Query{Filter: filter("EQ", `{"c":1}`)})
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, itemKeys(r))

	ofRedis := "[\n  {\"name\": \"orgIndx\", \"indexes\": [{\"key\": \"person.org\", \"type\": \"TEXT\"}]}\n]\n"
	for _, bad := range []string{"a..b", ",", "a,,b", strings.Repeat("a", 2000), ofRedis} {
		d := h.dial("bad")
		_, err := d.Init(d.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"queryIndexes": bad}}})
		require.Equal(t, codes.InvalidArgument, status.Code(err), bad)
		require.ErrorContains(t, err, "queryIndexes")
	}
}
