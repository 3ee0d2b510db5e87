package statestore

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

const (
	// MaxFieldPathSize bounds a field path, in bytes.
	MaxFieldPathSize = 1 << 10
	// MaxFieldPathParts bounds the field names in a path.
	MaxFieldPathParts = 32
)

// FieldPath names a field of JSON values: field names, outermost first, with dots between them. Names that hold a dot
// cannot be reached.
//
// A path that meets an array goes on in each of the array's elements that are objects; a part that is a whole number
// also stands for the element at that place, counted from 0. A path may so lead to several places. The values of
// a field are what it finds there: of an array both the array and its elements. A field that is nowhere has one value,
// null. (MongoDB, Dapr's most complete query store, has the same rules.)
type FieldPath struct {
	text string
	// names are the parts as gjson takes them.
	names []string
	// places are the parts as places in an array; -1: it is none.
	places []int
}

// ParseFieldPath returns an invalid.Error for what cannot be a path.
func ParseFieldPath(text string) (FieldPath, error) {
	parts := strings.Split(text, ".")
	if len(text) > MaxFieldPathSize || len(parts) > MaxFieldPathParts || !utf8.ValidString(text) || slices.Contains(parts, "") {
		return FieldPath{}, invalid.New("field path", text, fmt.Sprintf("1 to %d field names with dots between them, at most %d bytes of UTF-8", MaxFieldPathParts, MaxFieldPathSize))
	}
	p := FieldPath{text: text, names: make([]string, len(parts)), places: make([]int, len(parts))}
	for i, part := range parts {
		p.names[i] = gjson.Escape(part)
		p.places[i] = -1
		if n, err := strconv.ParseUint(part, 10, 31); err == nil {
			p.places[i] = int(n)
		}
	}
	return p, nil
}

// String returns the path as it was given.
func (p *FieldPath) String() string { return p.text }

// values shows visit each of the field's values until it returns false, or until the meter ends it. value need not be
// JSON; what is found in what is not JSON means nothing.
func (p *FieldPath) values(value []byte, m *meter, visit func(gjson.Result) bool) {
	found := false
	p.leaves(value, m, func(leaf gjson.Result) bool {
		found = true
		return visit(leaf) && (!leaf.IsArray() || m.examine(len(leaf.Raw)) &&
			eachElement(leaf, func(_ int, e gjson.Result) bool { return visit(e) }))
	})
	if !found {
		visit(gjson.Result{})
	}
}

// leaves shows visit what stands at each place that the path leads to, until it returns false or the meter ends it.
func (p *FieldPath) leaves(value []byte, m *meter, visit func(gjson.Result) bool) {
	value = bytes.TrimLeft(value, " \t\r\n")
	if len(value) == 0 || !m.examine(len(value)) {
		return
	}
	switch value[0] {
	case '{':
		if next := gjson.GetBytes(value, p.names[0]); next.Exists() {
			p.walk(next, 1, m, visit)
		}
	case '[':
		p.walk(gjson.ParseBytes(value), 0, m, visit)
	}
}

func (p *FieldPath) walk(at gjson.Result, depth int, m *meter, visit func(gjson.Result) bool) (goOn bool) {
	if depth == len(p.names) {
		return visit(at)
	}
	switch {
	case !m.examine(len(at.Raw)):
		return false
	case at.IsObject():
		return p.enter(at, depth, m, visit)
	case at.IsArray():
		return eachElement(at, func(i int, e gjson.Result) bool {
			if i == p.places[depth] && !p.walk(e, depth+1, m, visit) {
				return false
			}
			return !e.IsObject() || p.enter(e, depth, m, visit)
		})
	}
	return true
}

func (p *FieldPath) enter(object gjson.Result, depth int, m *meter, visit func(gjson.Result) bool) (goOn bool) {
	if next := object.Get(p.names[depth]); next.Exists() {
		return p.walk(next, depth+1, m, visit)
	}
	return true
}

// eachElement returns false if visit did.
func eachElement(array gjson.Result, visit func(i int, e gjson.Result) bool) bool {
	i, goOn := -1, true
	array.ForEach(func(_, e gjson.Result) bool {
		i++
		goOn = visit(i, e)
		return goOn
	})
	return goOn
}
