package enginetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// The query language as its documentation has it, over what encoding/json decodes.

// leavesOf lists what stands where a path leads to.
func leavesOf(v any, parts []string) []any {
	if len(parts) == 0 {
		return []any{v}
	}
	switch v := v.(type) {
	case map[string]any:
		if next, ok := v[parts[0]]; ok {
			return leavesOf(next, parts[1:])
		}
	case []any:
		var all []any
		for i, e := range v {
			if strconv.Itoa(i) == parts[0] {
				all = append(all, leavesOf(e, parts[1:])...)
			}
			if object, ok := e.(map[string]any); ok {
				all = append(all, leavesOf(object, parts)...)
			}
		}
		return all
	}
	return nil
}

func valuesOf(v any, path string) []any {
	var all []any
	for _, leaf := range leavesOf(v, strings.Split(path, ".")) {
		all = append(all, leaf)
		if list, ok := leaf.([]any); ok {
			all = append(all, list...)
		}
	}
	if len(all) == 0 {
		return []any{nil}
	}
	return all
}

func holds(f statestore.Filter, v any) bool {
	anyEquals := func(path string, want any) bool {
		return slices.ContainsFunc(valuesOf(v, path), func(got any) bool { return reflect.DeepEqual(got, want) })
	}
	switch f := f.(type) {
	case nil:
		return true
	case statestore.And:
		return !slices.ContainsFunc(f, func(f statestore.Filter) bool { return !holds(f, v) })
	case statestore.Or:
		return slices.ContainsFunc(f, func(f statestore.Filter) bool { return holds(f, v) })
	case *statestore.In:
		return slices.ContainsFunc(f.Values, func(want any) bool { return anyEquals(f.Path, want) })
	case *statestore.Comparison:
		switch f.Op {
		case statestore.OpEqual:
			return anyEquals(f.Path, f.Value)
		case statestore.OpNotEqual:
			return !anyEquals(f.Path, f.Value)
		}
		return slices.ContainsFunc(valuesOf(v, f.Path), func(got any) bool {
			order := 0
			switch want := f.Value.(type) {
			case float64:
				n, ok := got.(float64)
				if !ok {
					return false
				}
				order = cmp.Compare(n, want)
			case string:
				s, ok := got.(string)
				if !ok {
					return false
				}
				order = cmp.Compare(s, want)
			}
			switch f.Op {
			case statestore.OpGreater:
				return order > 0
			case statestore.OpGreaterOrEqual:
				return order >= 0
			case statestore.OpLess:
				return order < 0
			default:
				return order <= 0
			}
		})
	}
	panic(fmt.Sprintf("%T", f))
}

func rankOf(v any) int {
	switch v := v.(type) {
	case nil:
		return 0
	case float64:
		return 1
	case string:
		return 2
	case map[string]any:
		return 3
	case []any:
		return 4
	case bool:
		if v {
			return 6
		}
		return 5
	}
	panic(fmt.Sprintf("%T", v))
}

// compareJSON is the order of JSON values.
func compareJSON(a, b any) int {
	if order := cmp.Compare(rankOf(a), rankOf(b)); order != 0 {
		return order
	}
	switch a := a.(type) {
	case float64:
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	case []any:
		return slices.CompareFunc(a, b.([]any), compareJSON)
	case map[string]any:
		b := b.(map[string]any)
		fields := func(m map[string]any) (list []any) {
			for _, name := range slices.Sorted(maps.Keys(m)) {
				list = append(list, name, m[name])
			}
			return list
		}
		return slices.CompareFunc(fields(a), fields(b), compareJSON)
	}
	return 0
}

func sortValueOf(v any, k statestore.SortKey) any {
	var all []any
	for _, leaf := range leavesOf(v, strings.Split(k.Path, ".")) {
		if list, ok := leaf.([]any); ok {
			all = append(all, list...)
		} else {
			all = append(all, leaf)
		}
	}
	switch {
	case len(all) == 0:
		return nil
	case k.Descending:
		return slices.MaxFunc(all, compareJSON)
	default:
		return slices.MinFunc(all, compareJSON)
	}
}

// standing is where an item stands in an answer.
type standing struct {
	sort []any
	key  string
}

func compareStanding(keys []statestore.SortKey, a, b standing) int {
	for i, k := range keys {
		order := compareJSON(a.sort[i], b.sort[i])
		if k.Descending {
			order = -order
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(a.key, b.key)
}

// queryModel is a set of keys with values and ends.
type queryModel map[string]modelItem

// answer returns everything that q asks for, in order, whatever its limit and token.
func (m queryModel) answer(q statestore.Query, now time.Time) (all []standing) {
	for key, item := range m {
		var v any
		if instant.Reached(item.end, now) || json.Unmarshal([]byte(item.value), &v) != nil || !holds(q.Filter, v) {
			continue
		}
		at := standing{key: key}
		for _, k := range q.Sort {
			at.sort = append(at.sort, sortValueOf(v, k))
		}
		all = append(all, at)
	}
	slices.SortFunc(all, func(a, b standing) int { return compareStanding(q.Sort, a, b) })
	return all
}

var (
	modelPaths = []string{"a", "b", "tags", "n.x", "n", "tags.0", "n.0.x", "list.a", "none"}
)

func drawScalar(t *rapid.T) any {
	return rapid.SampledFrom([]any{
		nil, true, false, 0.0, -1.0, 1.0, 1.5, 2.0, 10.0, -2.5e300, "", "a", "ab", "b", "10", "é", "a\x00", "a\x00b", "\x01",
		strings.Repeat("l", 300), strings.Repeat("l", 300) + "a", strings.Repeat("l", 300) + "b",
	}).Draw(t, "scalar")
}

func drawValue(t *rapid.T) any {
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "elements"))
		for i := range list {
			list[i] = drawScalar(t)
		}
		return list
	case 1:
		return []any{map[string]any{"x": drawScalar(t)}, map[string]any{"x": drawScalar(t), "a": drawScalar(t)}}
	case 2:
		return map[string]any{"x": drawScalar(t), "0": map[string]any{"x": drawScalar(t)}}
	case 3:
		many := make([]any, statestore.MaxIndexKeys+rapid.IntRange(0, 1).Draw(t, "more"))
		for i := range many {
			many[i] = float64(i)
		}
		return many
	default:
		return drawScalar(t)
	}
}

func drawDocument(t *rapid.T) string {
	if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
		return rapid.SampledFrom([]string{"", "text", `{"a":1`, `{"a":1}}`, `{"a":01}`, "{'a':1}", "1", `"a"`, "null", "[]",
			`[{"a":1},{"a":2}]`, " {\n\"a\" :1 }", `{"\u0061":"\u00e9"}`, `"{\"a\":1}"`}).Draw(t, "odd value")
	}
	doc := map[string]any{}
	for _, field := range []string{"a", "b", "tags", "n", "list"} {
		if rapid.IntRange(0, 3).Draw(t, "present") > 0 {
			doc[field] = drawValue(t)
		}
	}
	raw, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(raw)
}

func drawFilter(t *rapid.T, depth int) statestore.Filter {
	path := rapid.SampledFrom(modelPaths).Draw(t, "path")
	kind := rapid.IntRange(0, 9).Draw(t, "filter")
	if depth == 0 && kind < 3 {
		kind = 3
	}
	switch kind {
	case 0, 1:
		f := make([]statestore.Filter, rapid.IntRange(2, 3).Draw(t, "filters"))
		for i := range f {
			f[i] = drawFilter(t, depth-1)
		}
		if kind == 0 {
			return statestore.Or(f)
		}
		return statestore.And(f)
	case 2:
		// A range, most likely on one path.
		lower, upper := drawBound(t, path), drawBound(t, path)
		return statestore.And{lower, upper}
	case 3:
		f := &statestore.In{Path: path}
		for range rapid.IntRange(1, 3).Draw(t, "values") {
			f.Values = append(f.Values, drawValue(t))
		}
		return f
	case 4, 5:
		return drawBound(t, path)
	case 6:
		return &statestore.Comparison{Op: statestore.OpNotEqual, Path: path, Value: drawValue(t)}
	default:
		return &statestore.Comparison{Op: statestore.OpEqual, Path: path, Value: drawValue(t)}
	}
}

func drawBound(t *rapid.T, path string) statestore.Filter {
	value := drawScalar(t)
	switch value.(type) {
	case float64, string:
	default:
		value = 1.0
	}
	return &statestore.Comparison{
		Op:    rapid.SampledFrom([]statestore.CompareOp{statestore.OpGreater, statestore.OpGreaterOrEqual, statestore.OpLess, statestore.OpLessOrEqual}).Draw(t, "op"),
		Path:  path,
		Value: value,
	}
}

func drawQuery(t *rapid.T) statestore.Query {
	q := statestore.Query{Limit: rapid.IntRange(0, 4).Draw(t, "limit")}
	if rapid.IntRange(0, 4).Draw(t, "filtered") > 0 {
		q.Filter = drawFilter(t, 2)
	}
	for range rapid.IntRange(0, 2).Draw(t, "sort keys") {
		q.Sort = append(q.Sort, statestore.SortKey{Path: rapid.SampledFrom(modelPaths).Draw(t, "sort"), Descending: rapid.Bool().Draw(t, "descending")})
	}
	return q
}

// Queries asks the same of the store and of the model, with, without and during the building of indexes, with
// writes between the pages.
func Queries(t *testing.T, newPlace func() Place) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, newPlace())
		defer func() { r.close(t) }()
		m := queryModel{}
		keys := []string{"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k", "k\x00", "é"}

		// One query is under way, and may be taken up after writes.
		var q statestore.Query
		var last *standing
		nextPage := func(t *rapid.T) {
			page, err := r.store.Query(ctx, q)
			require.NoError(t, err)
			want := m.answer(q, r.clock.Now())
			if last != nil {
				want = slices.DeleteFunc(want, func(at standing) bool { return compareStanding(q.Sort, at, *last) <= 0 })
			}
			limit := q.Limit
			if limit == 0 {
				limit = statestore.MaxQueryLimit
			}
			more := len(want) > limit
			want = want[:min(len(want), limit)]
			require.Equal(t, keysOf(want), ItemKeys(page.Items), "%+v", q)
			require.Equal(t, more, page.Token != "")
			for _, item := range page.Items {
				require.Equal(t, Get(t, r.store, item.Key), item)
			}
			if q.Token = page.Token; more {
				last = &want[len(want)-1]
				return
			}
			q, last = drawQuery(t), nil
		}
		q = drawQuery(t)

		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				var writes []statestore.Write
				for range rapid.IntRange(1, 4).Draw(t, "writes") {
					key := rapid.SampledFrom(keys).Draw(t, "key")
					if rapid.IntRange(0, 3).Draw(t, "op") == 0 {
						writes = append(writes, Delete(key))
						delete(m, key)
						continue
					}
					w := Set(key, drawDocument(t))
					item := modelItem{value: string(w.Value)}
					if rapid.IntRange(0, 4).Draw(t, "ends") == 0 {
						w.TTL = time.Second
						item.end = r.clock.Now().Add(w.TTL)
					}
					writes = append(writes, w)
					m[key] = item
				}
				Apply(t, r.store, writes...)
			},
			"page":    nextPage,
			"another": func(t *rapid.T) { q, last = drawQuery(t), nil; nextPage(t) },
			"build": func(t *rapid.T) {
				paths := rapid.SliceOfNDistinct(rapid.SampledFrom(modelPaths), 1, 3, rapid.ID).Draw(t, "paths")
				until := r.clock.Now().Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "retention")) * time.Second)
				for range rapid.IntRange(1, 8).Draw(t, "steps") {
					_, err := r.engine.BuildIndexes(ctx, paths, until, rapid.IntRange(1, 4).Draw(t, "limit"))
					require.NoError(t, err)
				}
			},
			"time": func(t *rapid.T) {
				r.clock.Advance(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second / 2)
			},
			"sweep": func(t *rapid.T) {
				_, _, err := r.engine.Sweep(ctx, r.clock.Now(), rapid.IntRange(1, 8).Draw(t, "limit"))
				require.NoError(t, err)
			},
			"reopen": func(t *rapid.T) {
				r.close(t)
				r.open(t)
			},
			"": func(t *rapid.T) { r.place.CheckIndexes(t) },
		})
	})
}

func keysOf(all []standing) []string {
	keys := []string{}
	for _, at := range all {
		keys = append(keys, at.key)
	}
	return keys
}
