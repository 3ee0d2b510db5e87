package statestore

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

var compareOps = map[string]CompareOp{
	"EQ": OpEqual, "NEQ": OpNotEqual, "GT": OpGreater, "GTE": OpGreaterOrEqual, "LT": OpLess, "LTE": OpLessOrEqual,
}

// ParseFilter reads a filter as Dapr's state queries have it (https://docs.dapr.io/reference/api/state_api/#query-state),
// decoded by encoding/json: an object with one field, which is EQ, NEQ, GT, GTE, LT or LTE (an object with one field, the
// path), IN (the same, with an array), AND or OR (an array of filters). An object without fields is no filter: nil. What
// is not such a filter is an invalid.Error; limits and paths are checked when the filter is used.
func ParseFilter(v any) (Filter, error) {
	if m, ok := v.(map[string]any); ok && len(m) == 0 {
		return nil, nil
	}
	return parseFilter(v, 1)
}

func parseFilter(v any, depth int) (Filter, error) {
	if depth > MaxFilterDepth {
		return nil, filterTooDeep()
	}
	name, arg, err := singleField("filter", v)
	if err != nil {
		return nil, err
	}
	switch name {
	case "AND", "OR":
		list, ok := arg.([]any)
		if !ok {
			return nil, malformed(name, arg, "an array of filters")
		}
		filters := make([]Filter, len(list))
		for i, each := range list {
			if filters[i], err = parseFilter(each, depth+1); err != nil {
				return nil, err
			}
		}
		if name == "AND" {
			return And(filters), nil
		}
		return Or(filters), nil
	case "IN":
		path, values, err := singleField(name, arg)
		if err != nil {
			return nil, err
		}
		list, ok := values.([]any)
		if !ok {
			return nil, malformed("IN of "+invalid.Quote(path), values, "an array of values")
		}
		return &In{Path: path, Values: list}, nil
	}
	op, ok := compareOps[name]
	if !ok {
		return nil, invalid.New("filter", name, strings.Join(slices.Sorted(maps.Keys(compareOps)), ", ")+", IN, AND or OR")
	}
	path, value, err := singleField(name, arg)
	if err != nil {
		return nil, err
	}
	return &Comparison{Op: op, Path: path, Value: value}, nil
}

// singleField takes an object with one field apart.
func singleField(what string, v any) (name string, value any, err error) {
	m, ok := v.(map[string]any)
	if !ok {
		return "", nil, malformed(what, v, "an object with one field")
	}
	if len(m) != 1 {
		return "", nil, &invalid.Error{Field: what, Value: fmt.Sprintf("with %d fields", len(m)), Allowed: "an object with one field"}
	}
	for name, value = range m {
	}
	return name, value, nil
}

// malformed says of which JSON type v is.
func malformed(what string, v any, allowed string) error {
	kind := "null"
	switch v.(type) {
	case bool:
		kind = "a boolean"
	case string:
		kind = "a string"
	case []any:
		kind = "an array"
	case map[string]any:
		kind = "an object"
	case nil:
	default:
		kind = "a number"
	}
	return &invalid.Error{Field: what, Value: "that is " + kind, Allowed: allowed}
}
