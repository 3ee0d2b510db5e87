package statestore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

// parse reads a filter from JSON.
func parse(t require.TestingT, text string) (statestore.Filter, error) {
	var v any
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return statestore.ParseFilter(v)
}

func query(t *testing.T, s *statestore.Store, q statestore.Query) ([]string, string) {
	t.Helper()
	page, err := s.Query(ctx, q)
	require.NoError(t, err)
	keys := []string{}
	for _, item := range page.Items {
		require.True(t, item.Found)
		keys = append(keys, item.Key)
	}
	return keys, page.Token
}

func TestFilters(t *testing.T) {
	s, _ := newStore(t)
	docs := map[string]string{
		"num":     `{"v":10}`,
		"float":   `{"v":1.05e1}`,
		"neg":     `{"v":-0}`,
		"big":     `{"v":9007199254740993}`,
		"str":     `{"v":"10"}`,
		"esc":     `{"v":"caf\u00e9"}`,
		"true":    `{"v":true}`,
		"false":   `{"v":false}`,
		"null":    `{"v":null}`,
		"none":    `{"w":1}`,
		"list":    `{"v":[5,25,"x",[7]]}`,
		"empty":   `{"v":[]}`,
		"obj":     `{"v":{"a":1,"b":[1,2]}}`,
		"deep":    `{"v":[{"a":1},{"a":[2,3]}]}`,
		"scalar":  `10`,
		"text":    `not JSON`,
		"almost":  `{"v":10`,
		"twice":   `{"v":10} {}`,
		"nothing": ``,
	}
	for key, value := range docs {
		enginetest.Apply(t, s, enginetest.Set(key, value))
	}
	for filter, want := range map[string]string{
		`{"EQ":{"v":10}}`:                            "num",
		`{"EQ":{"v":10.5}}`:                          "float",
		`{"EQ":{"v":0}}`:                             "neg",
		`{"EQ":{"v":9007199254740992}}`:              "big",
		`{"EQ":{"v":"10"}}`:                          "str",
		`{"EQ":{"v":"café"}}`:                        "esc",
		`{"EQ":{"v":true}}`:                          "true",
		`{"EQ":{"v":null}}`:                          "none null scalar",
		`{"EQ":{"v":25}}`:                            "list",
		`{"EQ":{"v":7}}`:                             "",
		`{"EQ":{"v":[7]}}`:                           "list",
		`{"EQ":{"v":[5,25,"x",[7]]}}`:                "list",
		`{"EQ":{"v":[5,25,"x"]}}`:                    "",
		`{"EQ":{"v":[]}}`:                            "empty",
		`{"EQ":{"v":{"b":[1,2],"a":1}}}`:             "obj",
		`{"EQ":{"v":{"b":[1,2]}}}`:                   "",
		`{"EQ":{"v.a":1}}`:                           "deep obj",
		`{"EQ":{"v.a":3}}`:                           "deep",
		`{"EQ":{"v.1.a":2}}`:                         "deep",
		`{"EQ":{"v.1":25}}`:                          "list",
		`{"EQ":{"v.b.1":2}}`:                         "obj",
		`{"EQ":{"v.length":4}}`:                      "",
		`{"EQ":{"v.#":4}}`:                           "",
		`{"NEQ":{"v":10}}`:                           "big deep empty esc false float list neg none null obj scalar str true",
		`{"GT":{"v":10}}`:                            "big float list",
		`{"GTE":{"v":10}}`:                           "big float list num",
		`{"LT":{"v":10}}`:                            "list neg",
		`{"LTE":{"v":10}}`:                           "list neg num",
		`{"GT":{"v":"1"}}`:                           "esc list str",
		`{"LT":{"v":"caf\u00ea"}}`:                   "esc str",
		`{"IN":{"v":[10,"10",false]}}`:               "false num str",
		`{"IN":{"v":[null]}}`:                        "none null scalar",
		`{"AND":[{"GTE":{"v":10}},{"LT":{"v":20}}]}`: "float list num",
		`{"OR":[{"EQ":{"v":10}},{"AND":[{"EQ":{"w":1}},{"NEQ":{"v":1}}]}]}`: "none num",
		`{}`: "big deep empty esc false float list neg none null num obj scalar str true",
	} {
		f, err := parse(t, filter)
		require.NoError(t, err, filter)
		keys, token := query(t, s, statestore.Query{Filter: f})
		require.Equal(t, want, strings.Join(keys, " "), filter)
		require.Empty(t, token)
	}
}

func TestFieldNamesMeanThemselves(t *testing.T) {
	s, _ := newStore(t)
	for i, name := range []string{"a*", "a?", "#", "@this", "@reverse", "!", "a|b", "{a}", "[a", `a\`, `"`, "a:b", ":1", "#(a==1)", "é", " ", "<&>", "\x01", "0"} {
		key := fmt.Sprint(i)
		doc, err := json.Marshal(map[string]any{"outer": map[string]any{name: key}, "ax": key, "this": key})
		require.NoError(t, err)
		enginetest.Apply(t, s, enginetest.Set(key, string(doc)))
		keys, _ := query(t, s, statestore.Query{Filter: &statestore.Comparison{Op: statestore.OpEqual, Path: "outer." + name, Value: key}})
		require.Equal(t, []string{key}, keys, name)
	}
}

func TestBadQueries(t *testing.T) {
	s, _ := newStore(t)
	nested := func(depth int) string {
		return strings.Repeat(`{"AND":[{"EQ":{"a":1}},`, depth) + `{"EQ":{"a":1}}` + strings.Repeat(`]}`, depth)
	}
	for filter, text := range map[string]string{
		`[]`:                           "invalid filter that is an array: allowed: an object with one field",
		`null`:                         "filter that is null",
		`{"EQ":{"a":1},"NEQ":{"a":1}}`: "filter with 2 fields",
		`{"LIKE":{"a":1}}`:             `invalid filter "LIKE": allowed: EQ, GT, GTE, LT, LTE, NEQ, IN, AND or OR`,
		`{"eq":{"a":1}}`:               `filter "eq"`,
		`{"EQ":1}`:                     "EQ that is a number",
		`{"EQ":{}}`:                    "EQ with 0 fields",
		`{"EQ":{"a":1,"b":1}}`:         "EQ with 2 fields",
		`{"EQ":{"":1}}`:                `field path ""`,
		`{"EQ":{"a..b":1}}`:            `field path "a..b"`,
		`{"EQ":{"a":` + strings.Repeat("[", 33) + strings.Repeat("]", 33) + `}}`: "nested too deep",
		`{"IN":{"a":1}}`:                  `invalid IN of "a" that is a number: allowed: an array of values`,
		`{"IN":{"a":[]}}`:                 `IN of "a" with 0 values`,
		`{"IN":{"a..b":[1]}}`:             `field path "a..b"`,
		`{"GT":{"a":true}}`:               "invalid filter value \"true\" of a: allowed: a number or a string",
		`{"LTE":{"a":null}}`:              "a number or a string",
		`{"LT":{"a":[1]}}`:                "a number or a string",
		`{"AND":{"a":1}}`:                 "AND that is an object",
		`{"AND":[]}`:                      "AND of 0 filters",
		`{"OR":[{"EQ":{"a":1}}]}`:         "OR of 1 filters",
		`{"OR":[{"EQ":{"a":1}},"text"]}`:  "filter that is a string",
		nested(statestore.MaxFilterDepth): "nested at most 32 deep",
		`{"OR":[` + strings.Repeat(`{"EQ":{"a":1}},`, statestore.MaxFilterSize) + `{"EQ":{"a":1}}]}`: "at most 1000 comparisons",
		`{"IN":{"a":[` + strings.Repeat(`1,`, statestore.MaxInValues) + `1]}}`:                       "with 1 to 10000 values",
		`{"EQ":{"` + strings.Repeat("x", statestore.MaxFieldPathSize+1) + `":1}}`:                    "at most 1024 bytes",
		`{"EQ":{"a` + strings.Repeat(".a", statestore.MaxFieldPathParts) + `":1}}`:                   "1 to 32 field names",
	} {
		f, err := parse(t, filter)
		if err == nil {
			_, err = s.Query(ctx, statestore.Query{Filter: f})
		}
		require.ErrorIs(t, err, statestore.ErrInvalidArgument, filter)
		require.ErrorContains(t, err, text)
		require.Less(t, len(err.Error()), 512)
	}
	f, err := parse(t, nested(statestore.MaxFilterDepth-1))
	require.NoError(t, err)
	_, err = s.Query(ctx, statestore.Query{Filter: f})
	require.NoError(t, err)

	for text, q := range map[string]statestore.Query{
		"limit -1":          {Limit: -1},
		`field path "."`:    {Sort: []statestore.SortKey{{Path: "."}}},
		"sort by 9 fields":  {Sort: make([]statestore.SortKey, statestore.MaxSortKeys+1)},
		`token "x"`:         {Token: "x"},
		"at least two":      {Filter: statestore.And{nil}},
		"filter nil":        {Filter: statestore.And{nil, nil}},
		"comparison 0":      {Filter: &statestore.Comparison{Path: "a"}},
		"cannot be written": {Filter: &statestore.Comparison{Op: statestore.OpEqual, Path: "a", Value: math.NaN()}},
	} {
		_, err := s.Query(ctx, q)
		require.ErrorIs(t, err, statestore.ErrInvalidArgument, text)
		require.ErrorContains(t, err, text)
	}
}

func TestSortAndPages(t *testing.T) {
	s, _ := newStore(t)
	for key, value := range map[string]string{
		"1": `{"state":"WA","age":30}`, "2": `{"state":"CA","age":5}`, "3": `{"state":"CA","age":"old"}`, "4": `{"state":"CA","age":[50,1]}`,
		"5": `{"state":"CA"}`, "6": `{"state":"OR","age":true}`, "7": `{"age":40}`, "8": `{"state":"WA","age":30}`,
	} {
		enginetest.Apply(t, s, enginetest.Set(key, value))
	}
	for _, c := range []struct {
		sort []statestore.SortKey
		want string
	}{
		{nil, "1 2 3 4 5 6 7 8"},
		{[]statestore.SortKey{{Path: "age"}}, "5 4 2 1 8 7 3 6"},
		{[]statestore.SortKey{{Path: "age", Descending: true}}, "6 3 4 7 1 8 2 5"},
		{[]statestore.SortKey{{Path: "state", Descending: true}, {Path: "age"}}, "1 8 6 5 4 2 3 7"},
		{[]statestore.SortKey{{Path: "state"}, {Path: "age", Descending: true}}, "7 3 4 2 5 6 1 8"},
	} {
		for limit := range 9 {
			var all []string
			token := ""
			for {
				var keys []string
				keys, token = query(t, s, statestore.Query{Sort: c.sort, Limit: limit, Token: token})
				all = append(all, keys...)
				if token == "" {
					break
				}
				require.Len(t, keys, limit)
			}
			require.Equal(t, c.want, strings.Join(all, " "), "%v, %d at a time", c.sort, limit)
		}
	}

	_, token := query(t, s, statestore.Query{Sort: []statestore.SortKey{{Path: "age"}}, Limit: 1})
	for _, other := range [][]statestore.SortKey{nil, {{Path: "age", Descending: true}}, {{Path: "state"}}} {
		_, err := s.Query(ctx, statestore.Query{Sort: other, Token: token})
		require.ErrorIs(t, err, statestore.ErrInvalidArgument)
		require.ErrorContains(t, err, "another sort")
	}
}

// Values move, come and go between two pages: those that stay where they were come exactly once.
func TestATokenStaysRightWhileOthersWrite(t *testing.T) {
	s, _ := newStore(t)
	for i := range 6 {
		enginetest.Apply(t, s, enginetest.Set(fmt.Sprintf("k%d", i), fmt.Sprintf(`{"n":%d}`, i*10)))
	}
	q := statestore.Query{Sort: []statestore.SortKey{{Path: "n"}}, Limit: 3}
	keys, token := query(t, s, q)
	require.Equal(t, []string{"k0", "k1", "k2"}, keys)
	enginetest.Apply(t, s, enginetest.Delete("k0"), enginetest.Delete("k2"), enginetest.Set("before", `{"n":5}`), enginetest.Set("after", `{"n":35}`), enginetest.Set("k5", `{"n":1}`))
	q.Token = token
	keys, token = query(t, s, q)
	require.Equal(t, []string{"k3", "after", "k4"}, keys)
	require.Empty(t, token)
}

func TestPagesAreLimitedByBytes(t *testing.T) {
	s, _ := newStore(t)
	doc := func(size int) string { return `{"a":"` + strings.Repeat("x", size-8) + `"}` }
	large := strings.Repeat("k", statestore.MaxKeySize-1)
	w := enginetest.Set(large+"1", doc(statestore.MaxValueSize))
	w.ContentType = strings.Repeat("c", statestore.MaxContentTypeSize)
	enginetest.Apply(t, s, w)
	enginetest.Apply(t, s, enginetest.Set(large+"2", doc(statestore.MaxValueSize)))
	for i := range 12 {
		enginetest.Apply(t, s, enginetest.Set(fmt.Sprintf("m%02d", i), doc(1<<20)))
	}
	for _, sort := range [][]statestore.SortKey{nil, {{Path: "a"}}, {{Path: "a", Descending: true}, {Path: "b"}}} {
		seen := map[string]int{}
		q := statestore.Query{Sort: sort}
		for pages := 1; ; pages++ {
			page, err := s.Query(ctx, q)
			require.NoError(t, err)
			require.NotEmpty(t, page.Items)
			size := len(page.Token)
			for _, item := range page.Items {
				size += len(item.Key) + len(item.Value) + len(item.ETag) + len(item.ContentType) + statestore.PageItemOverhead
				seen[item.Key]++
			}
			require.Less(t, size, 4<<20-1<<10, "the answer must be one that gRPC's clients receive")
			if q.Token = page.Token; q.Token == "" {
				require.Equal(t, 2+4, pages)
				break
			}
		}
		require.Len(t, seen, 14)
		for key, n := range seen {
			require.Equal(t, 1, n, key)
		}
	}
}

func TestPagesAreLimitedByCount(t *testing.T) {
	s, _ := newStore(t)
	writes := make([]statestore.Write, statestore.MaxQueryLimit+1)
	for i := range writes {
		writes[i] = enginetest.Set(fmt.Sprintf("%04d", i), "1")
	}
	enginetest.Apply(t, s, writes...)
	for _, limit := range []int{0, statestore.MaxQueryLimit, math.MaxInt} {
		keys, token := query(t, s, statestore.Query{Limit: limit})
		require.Len(t, keys, statestore.MaxQueryLimit)
		keys, token = query(t, s, statestore.Query{Limit: limit, Token: token})
		require.Equal(t, []string{fmt.Sprintf("%04d", statestore.MaxQueryLimit)}, keys)
		require.Empty(t, token)
	}
	// What is not JSON is no reason for another page.
	enginetest.Apply(t, s, enginetest.Set("zzz", "text"))
	keys, token := query(t, s, statestore.Query{Limit: 1, Filter: &statestore.Comparison{Op: statestore.OpEqual, Path: "a"}})
	require.Len(t, keys, 1)
	require.NotEmpty(t, token)
	for i := range writes[1:] {
		writes[i+1] = enginetest.Delete(writes[i+1].Key)
	}
	enginetest.Apply(t, s, writes[1:]...)
	_, token = query(t, s, statestore.Query{Limit: 1})
	require.Empty(t, token)
}

func TestQueriesHonourTTL(t *testing.T) {
	s, clock := newStore(t)
	w := enginetest.Set("ends", `{"a":1}`)
	w.TTL = time.Second
	enginetest.Apply(t, s, w, enginetest.Set("stays", `{"a":1}`))
	q := statestore.Query{Filter: &statestore.Comparison{Op: statestore.OpEqual, Path: "a", Value: 1}}
	page, err := s.Query(ctx, q)
	require.NoError(t, err)
	require.Equal(t, []statestore.Item{enginetest.Get(t, s, "ends"), enginetest.Get(t, s, "stays")}, page.Items)
	clock.Advance(time.Second)
	keys, _ := query(t, s, q)
	require.Equal(t, []string{"stays"}, keys)
}

func TestQueryHeedsItsContext(t *testing.T) {
	s, _ := newStore(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.Query(ended, statestore.Query{})
	require.ErrorIs(t, err, context.Canceled)
}

// A value that is nested deeper than encoding/json reads must not exhaust the stack.
func TestDeepNestingIsNotJSON(t *testing.T) {
	s, _ := newStore(t)
	nest := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	enginetest.Apply(t, s, enginetest.Set("deep", nest(10_000)), enginetest.Set("deeper", nest(10_001)), enginetest.Set("deepest", nest(statestore.MaxValueSize/2)),
		enginetest.Set("wide", "["+strings.Repeat("[],", 20_000)+"1]"), enginetest.Set("text", `"`+strings.Repeat("[", 20_000)+`\""`))
	for _, sort := range [][]statestore.SortKey{nil, {{Path: "0"}}} {
		keys, _ := query(t, s, statestore.Query{Sort: sort})
		require.ElementsMatch(t, []string{"deep", "text", "wide"}, keys)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add(`{"AND":[{"EQ":{"a.b":1}},{"IN":{"c.0":["x",null]}}]}`, `{"a":{"b":1},"c":["x"]}`, "a.b", "")
	f.Add(`{"OR":[{"NEQ":{"a":[1,{"b":2}]}},{"GT":{"#":"x"}}]}`, `[{"a":[1,{"b":2}]}]`, "@this.#", "AaMBSC4")
	f.Add(`{"LT":{"a":-1e308}}`, `{"a":1e999}`, "a", "!")
	f.Add(`{"EQ":{"\u0000":"\u0000"}}`, `{"a":"\ud800"`, "*", "AQ")
	f.Fuzz(func(t *testing.T, filter, doc, sort, token string) {
		var v any
		if json.Unmarshal([]byte(filter), &v) != nil {
			return
		}
		parsed, err := statestore.ParseFilter(v)
		if err != nil {
			require.ErrorIs(t, err, statestore.ErrInvalidArgument)
			return
		}
		engine := oneValue{doc: doc}
		s, err := statestore.New(engine, statestore.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close(ctx)) }()
		page, err := s.Query(ctx, statestore.Query{Filter: parsed, Sort: []statestore.SortKey{{Path: sort}}, Token: token})
		if err != nil {
			require.ErrorIs(t, err, statestore.ErrInvalidArgument)
			return
		}
		for _, item := range page.Items {
			require.True(t, json.Valid(item.Value))
		}
	})
}

// oneValue is an engine that holds one value, under the key "k", for queries.
type oneValue struct {
	statestore.Engine
	doc string
}

func (e oneValue) Sweep(context.Context, time.Time, int) (int, bool, error) { return 0, false, nil }

func (e oneValue) BuildIndexes(context.Context, []string, time.Time, int) (statestore.IndexProgress, error) {
	return statestore.IndexProgress{}, nil
}

func (e oneValue) View(_ context.Context, _ time.Time, fn func(statestore.Snapshot) error) error {
	return fn(oneSnapshot(e.doc))
}

type oneSnapshot string

func (s oneSnapshot) Get(key string, _ int) statestore.Item {
	return statestore.Item{Key: key, Found: true, Value: []byte(s)}
}

func (s oneSnapshot) Scan(after string, visit func(key, value []byte) bool) error {
	if after < "k" {
		visit([]byte("k"), []byte(s))
	}
	return nil
}

func (s oneSnapshot) Indexes() map[string]bool { return nil }

func (s oneSnapshot) Lookup(string, statestore.IndexRange, string, func(indexKey, key, value []byte) bool) error {
	return nil
}
