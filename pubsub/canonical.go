package pubsub

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// appendCanonical appends the canonical form of a JSON value: two values have the same one if and only if they are equal.
// As in RFC 8785, white space, the order of an object's members and the spelling of strings and numbers do not matter;
// unlike there, numbers are compared exactly, however large they are. The value must be valid JSON, and may be nested no
// deeper than encoding/json allows.
func appendCanonical(to []byte, v gjson.Result) []byte {
	switch {
	case v.Type == gjson.String:
		return appendSized(append(to, 's'), v.Str)
	case v.Type == gjson.Number:
		return appendSized(append(to, 'n'), canonicalNumber(v.Raw))
	case v.IsArray():
		to = append(to, '[')
		v.ForEach(func(_, element gjson.Result) bool {
			to = appendCanonical(to, element)
			return true
		})
		return append(to, ']')
	case v.IsObject():
		var members [][]byte
		v.ForEach(func(name, value gjson.Result) bool {
			members = append(members, appendCanonical(appendSized(nil, name.Str), value))
			return true
		})
		slices.SortFunc(members, bytes.Compare)
		return append(append(append(to, '{'), bytes.Join(members, nil)...), '}')
	default: // true, false and null
		return append(to, v.Raw...)
	}
}

func appendSized(to []byte, text string) []byte {
	return append(binary.AppendUvarint(to, uint64(len(text))), text...)
}

// canonicalNumber writes a number as its significant digits and a power of ten, "12e-1" for 1.20.
func canonicalNumber(raw string) string {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(raw), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	sign := ""
	if rest, negative := strings.CutPrefix(whole, "-"); negative {
		sign, whole = "-", rest
	}
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return "0"
	}
	power := int64(0)
	if exponent != "" {
		var err error
		if power, err = strconv.ParseInt(exponent, 10, 32); err != nil {
			// Nobody's number: it is equal to what is written alike.
			return raw
		}
	}
	significant := strings.TrimRight(digits, "0")
	power += int64(len(digits)-len(significant)) - int64(len(fraction))
	return sign + significant + "e" + strconv.FormatInt(power, 10)
}
