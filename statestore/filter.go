package statestore

import (
	"bytes"
	"cmp"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

const (
	// MaxFilterDepth bounds how deep filters are nested in each other, and arrays and objects in the values that a filter
	// compares with.
	MaxFilterDepth = 32
	// MaxFilterSize bounds the comparisons, memberships, ands and ors in a filter.
	MaxFilterSize = 1000
	// MaxInValues bounds the values of one In.
	MaxInValues = 10_000
)

// Filter says which values a query finds. It is a *Comparison, an *In, an And or an Or.
//
// A field may have several values (see FieldPath); a comparison holds if it holds for one of them, and OpNotEqual is
// the opposite of OpEqual. A value equals another if both are of one JSON type and the same: numbers go by their value as
// IEEE 754 doubles, strings by their bytes, arrays element by element, objects by their fields in any order. Null also
// equals what is not there. One value is below another only if both are numbers or both are strings, which go by their
// bytes; other types are refused as bounds. (Dapr's stores differ in the details; equality and arrays are MongoDB's.)
type Filter interface {
	compile(c *filterCompiler, depth int) (matcher, error)
}

// CompareOp is how a Comparison compares.
type CompareOp uint8

// The comparisons, with Dapr's names for them.
const (
	OpEqual          CompareOp = iota + 1 // EQ
	OpNotEqual                            // NEQ
	OpGreater                             // GT
	OpGreaterOrEqual                      // GTE
	OpLess                                // LT
	OpLessOrEqual                         // LTE
)

// Comparison compares the field at Path with Value, which is what encoding/json decodes into an any.
type Comparison struct {
	Op    CompareOp
	Path  string
	Value any
}

// In finds what equals one of Values, of which there must be at least one.
type In struct {
	Path   string
	Values []any
}

// And finds what all of its filters find. It has at least two.
type And []Filter

// Or finds what any of its filters finds. It has at least two.
type Or []Filter

// matcher is a filter that was checked and made ready for one query; it is not for several goroutines.
type matcher interface {
	// match decides about a value. Its answer for what is not JSON means nothing, nor does it once the meter has ended.
	match(value []byte, m *meter) bool
}

// filterCompiler counts what a filter consists of.
type filterCompiler struct{ size int }

func compileFilter(f Filter) (matcher, error) {
	if f == nil {
		return &group{all: true}, nil
	}
	return (&filterCompiler{}).filter(f, 1)
}

func (c *filterCompiler) filter(f Filter, depth int) (matcher, error) {
	if depth > MaxFilterDepth {
		return nil, filterTooDeep()
	}
	if c.size++; c.size > MaxFilterSize {
		return nil, &invalid.Error{Field: "filter", Value: fmt.Sprintf("of more than %d parts", MaxFilterSize),
			Allowed: fmt.Sprintf("of at most %d comparisons, memberships, ands and ors", MaxFilterSize)}
	}
	if f == nil {
		return nil, &invalid.Error{Field: "filter", Value: "nil", Allowed: "a comparison, a membership, an and or an or"}
	}
	return f.compile(c, depth)
}

func filterTooDeep() error {
	return &invalid.Error{Field: "filter", Value: "that is nested too deep", Allowed: fmt.Sprintf("nested at most %d deep", MaxFilterDepth)}
}

func (f *Comparison) compile(*filterCompiler, int) (matcher, error) {
	path, err := ParseFieldPath(f.Path)
	if err != nil {
		return nil, err
	}
	want, err := operand(f.Value)
	if err != nil {
		return nil, err
	}
	switch f.Op {
	case OpEqual, OpNotEqual:
		m := &equals{want: want}
		if want.Type == gjson.JSON {
			m.bytes = ordered(nil, want, len(want.Raw)*maxOrderedGrowth)
		}
		return &field{path: path, not: f.Op == OpNotEqual, test: m}, nil
	case OpGreater, OpGreaterOrEqual, OpLess, OpLessOrEqual:
		if want.Type != gjson.Number && want.Type != gjson.String {
			return nil, &invalid.Error{Field: "filter value", Value: invalid.Quote(want.Raw) + " of " + f.Path,
				Allowed: "a number or a string to be greater or less than"}
		}
		return &field{path: path, test: &bound{op: f.Op, want: want}}, nil
	default:
		return nil, &invalid.Error{Field: "comparison", Value: fmt.Sprint(f.Op), Allowed: "one of those that there are"}
	}
}

// maxOrderedGrowth is more than the ordered form of a JSON text is longer than the text.
const maxOrderedGrowth = 10

// field matches values of which the test holds for one of the field's values, or for none.
type field struct {
	path FieldPath
	not  bool
	test interface{ holds(v gjson.Result) bool }
}

func (m *field) match(value []byte, by *meter) bool {
	found := false
	m.path.values(value, by, func(v gjson.Result) bool {
		found = m.test.holds(v)
		return !found
	})
	return found != m.not
}

type equals struct {
	want  gjson.Result
	bytes []byte // of want's order, if it is an array or an object
	buf   []byte
}

func (m *equals) holds(v gjson.Result) bool {
	if v.Type != m.want.Type {
		return false
	}
	switch v.Type {
	case gjson.Number:
		return v.Num == m.want.Num
	case gjson.String:
		return v.Str == m.want.Str
	case gjson.JSON:
		m.buf = ordered(m.buf[:0], v, len(m.bytes)+1)
		return bytes.Equal(m.buf, m.bytes)
	default:
		return true
	}
}

// bound is a comparison with one end of a range.
type bound struct {
	op   CompareOp
	want gjson.Result
}

func (m *bound) holds(v gjson.Result) bool {
	if v.Type != m.want.Type {
		return false
	}
	order := cmp.Compare(v.Num, m.want.Num)
	if v.Type == gjson.String {
		order = cmp.Compare(v.Str, m.want.Str)
	}
	switch m.op {
	case OpGreater:
		return order > 0
	case OpGreaterOrEqual:
		return order >= 0
	case OpLess:
		return order < 0
	default:
		return order <= 0
	}
}

func (f *In) compile(*filterCompiler, int) (matcher, error) {
	if len(f.Values) == 0 || len(f.Values) > MaxInValues {
		return nil, &invalid.Error{Field: "IN", Value: fmt.Sprintf("of %s with %d values", invalid.Quote(f.Path), len(f.Values)),
			Allowed: fmt.Sprintf("with 1 to %d values", MaxInValues)}
	}
	path, err := ParseFieldPath(f.Path)
	if err != nil {
		return nil, err
	}
	m := &oneOf{wants: make([]gjson.Result, len(f.Values)), set: make(map[string]struct{}, len(f.Values))}
	for i, v := range f.Values {
		want, err := operand(v)
		if err != nil {
			return nil, err
		}
		key := ordered(nil, want, len(want.Raw)*maxOrderedGrowth)
		m.wants[i], m.set[string(key)], m.longest = want, struct{}{}, max(m.longest, len(key))
	}
	return &field{path: path, test: m}, nil
}

// oneOf finds values by their bytes in the order of JSON values.
type oneOf struct {
	wants   []gjson.Result
	set     map[string]struct{}
	longest int
	buf     []byte
}

func (m *oneOf) holds(v gjson.Result) bool {
	m.buf = ordered(m.buf[:0], v, m.longest+1)
	_, found := m.set[string(m.buf)]
	return found
}

// group matches what all of its parts match, or any of them.
type group struct {
	all   bool
	parts []matcher
}

func (m *group) match(value []byte, by *meter) bool {
	for _, part := range m.parts {
		if part.match(value, by) != m.all {
			return !m.all
		}
	}
	return m.all
}

func (f And) compile(c *filterCompiler, depth int) (matcher, error) { return c.group("AND", f, depth) }

func (f Or) compile(c *filterCompiler, depth int) (matcher, error) { return c.group("OR", f, depth) }

func (c *filterCompiler) group(name string, filters []Filter, depth int) (matcher, error) {
	if len(filters) < 2 {
		return nil, &invalid.Error{Field: name, Value: fmt.Sprintf("of %d filters", len(filters)), Allowed: "of at least two"}
	}
	m := &group{all: name == "AND", parts: make([]matcher, len(filters))}
	for i, f := range filters {
		var err error
		if m.parts[i], err = c.filter(f, depth+1); err != nil {
			return nil, err
		}
	}
	return m, nil
}
