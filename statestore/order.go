package statestore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// JSON values have one order: null, numbers, strings, objects, arrays, false, true, as in MongoDB. Numbers go by their
// value as IEEE 754 doubles, which is how Dapr hands over those of a filter; strings by their bytes, which for UTF-8 is
// the order of code points; arrays element by element; objects field by field, the fields by name.
//
// The order is that of the bytes that ordered returns: a tag, then what tells values with that tag apart. No value's
// bytes begin with another's.
const (
	orderEnd = iota // of an array's elements or an object's fields
	orderNull
	orderNumber
	orderString
	orderObject
	orderArray
	orderFalse
	orderTrue
	orderTooDeep // stands for whatever is nested deeper than maxOrderDepth
)

// maxOrderDepth is the depth to which arrays and objects are told apart. Each level means another look at what is inside.
const maxOrderDepth = 32

// maxJSONDepth is how deep a value may be nested to be taken for JSON, as in encoding/json: reading it takes stack.
const maxJSONDepth = 10_000

// ordered appends up to limit bytes that say where v stands in the order of JSON values; values that have the same first
// limit bytes are not told apart.
func ordered(buf []byte, v gjson.Result, limit int) []byte {
	start := len(buf)
	buf = appendOrdered(buf, v, start+limit, 0)
	return buf[:min(len(buf), start+limit)]
}

// appendOrdered may append more than limit asks for, but not work for it.
func appendOrdered(buf []byte, v gjson.Result, limit, depth int) []byte {
	switch v.Type {
	case gjson.Number:
		return appendOrderedNumber(buf, v.Num)
	case gjson.String:
		return appendOrderedString(buf, v.Str, limit)
	case gjson.False:
		return append(buf, orderFalse)
	case gjson.True:
		return append(buf, orderTrue)
	case gjson.JSON:
	default:
		return append(buf, orderNull)
	}
	if depth == maxOrderDepth {
		return append(buf, orderTooDeep)
	}
	if v.IsArray() {
		buf = append(buf, orderArray)
		eachElement(v, func(_ int, e gjson.Result) bool {
			buf = appendOrdered(buf, e, limit, depth+1)
			return len(buf) <= limit
		})
		return append(buf, orderEnd)
	}
	type field struct {
		name  string
		value gjson.Result
	}
	var fields []field
	v.ForEach(func(name, value gjson.Result) bool {
		fields = append(fields, field{name.Str, value})
		return true
	})
	slices.SortStableFunc(fields, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	buf = append(buf, orderObject)
	for _, f := range fields {
		if len(buf) > limit {
			break
		}
		buf = appendOrderedString(buf, f.name, limit)
		buf = appendOrdered(buf, f.value, limit, depth+1)
	}
	return append(buf, orderEnd)
}

func appendOrderedNumber(buf []byte, n float64) []byte {
	bits := math.Float64bits(n)
	if n == 0 {
		bits = 0 // -0 is 0
	}
	if bits>>63 == 1 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	return binary.BigEndian.AppendUint64(append(buf, orderNumber), bits)
}

// appendOrderedString ends the string with 0, 1; a 0 inside it becomes 0, 255.
func appendOrderedString(buf []byte, s string, limit int) []byte {
	buf = append(buf, orderString)
	for i := 0; i < len(s) && len(buf) <= limit; i++ {
		if buf = append(buf, s[i]); s[i] == 0 {
			buf = append(buf, 255)
		}
	}
	return append(buf, 0, 1)
}

// IsJSON reports whether value is what queries see.
func IsJSON(value []byte) bool { return !nestedDeeper(value, maxJSONDepth) && gjson.ValidBytes(value) }

// OnlyJSON returns value, or nil if it is not JSON.
func OnlyJSON(value []byte) []byte {
	if !IsJSON(value) {
		return nil
	}
	return value
}

// nestedDeeper reports whether arrays and objects are nested in a JSON text deeper than most.
func nestedDeeper(value []byte, most int) bool {
	if bytes.Count(value, []byte{'['})+bytes.Count(value, []byte{'{'}) <= most {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[', c == '{':
			if depth++; depth > most {
				return true
			}
		case c == ']', c == '}':
			depth--
		}
	}
	return false
}

// operand reads what a filter compares with: what encoding/json decodes into an any.
func operand(v any) (gjson.Result, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return gjson.Result{}, &invalid.Error{Field: "filter value", Value: "that cannot be written as JSON", Allowed: "a JSON value: " + err.Error()}
	}
	if nestedDeeper(raw, MaxFilterDepth) {
		return gjson.Result{}, filterTooDeep()
	}
	return gjson.ParseBytes(raw), nil
}
