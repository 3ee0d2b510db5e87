package statestore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"pgregory.net/rapid"
)

func TestOrderOfJSONValues(t *testing.T) {
	inOrder := []string{
		`null`, `-1e400`, `-1e300`, `-2`, `-1`, `-1e-300`, `0`, `5e-324`, `1`, `1.5`, `2`, `1e300`, `1e400`,
		`""`, `"\u0000"`, `"\u0000a"`, `"\u0001"`, `"a"`, `"a\u0000"`, `"a\u0001"`, `"aa"`, `"b"`, `"\u00e9"`, `"\ud83d\ude00"`,
		`{}`, `{"a":1}`, `{"a":1,"b":1}`, `{"a":2}`, `{"a":"x"}`, `{"b":0}`,
		`[]`, `[null]`, `[1]`, `[1,2]`, `[2]`, `["a"]`, `[{}]`, `[[]]`, `false`, `true`,
	}
	var before []byte
	for i, text := range inOrder {
		got := ordered(nil, gjson.Parse(text), 1000)
		require.Equal(t, -1, bytes.Compare(before, got), "%s after %s", text, inOrder[max(i-1, 0)])
		require.False(t, i > 0 && bytes.HasPrefix(got, before), text)
		before = got
	}
	for _, same := range [][2]string{{`0`, `-0.0`}, {`1`, `1.0e0`}, {`"a"`, `"\u0061"`}, {`{"a":1,"b":2}`, ` { "b" : 2 , "a" : 1 } `}, {`[1]`, `[ 1 ]`}} {
		require.Equal(t, ordered(nil, gjson.Parse(same[0]), 1000), ordered(nil, gjson.Parse(same[1]), 1000), same)
	}
}

func TestOrderIsCutShort(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, text := range []string{`"` + long + `"`, `["` + long + `"]`, `{"` + long + `":1}`, "[" + strings.Repeat("1,", 1<<18) + "1]", strings.Repeat("[", 1000)} {
		buf := ordered([]byte("kept"), gjson.Parse(text), 50)
		require.LessOrEqual(t, len(buf), 54)
		require.Equal(t, "kept", string(buf[:4]))
	}
}

func drawJSON(t *rapid.T, depth int) any {
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Float64().Draw(t, "number")
	case 3:
		if depth == 0 {
			return 0.0
		}
		list := make([]any, rapid.IntRange(0, 3).Draw(t, "elements"))
		for i := range list {
			list[i] = drawJSON(t, depth-1)
		}
		return list
	case 4:
		if depth == 0 {
			return ""
		}
		object := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "fields") {
			object[rapid.String().Draw(t, "name")] = drawJSON(t, depth-1)
		}
		return object
	default:
		return rapid.StringMatching(`[a\x00\x01é]{0,3}|x{400}[ab]?`).Draw(t, "string")
	}
}

// Index keys are in order with what they stand for, and none begins another.
func TestIndexKeysKeepTheOrder(t *testing.T) {
	path, err := ParseFieldPath("v")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		var values []gjson.Result
		var keys [][]byte
		for range 2 {
			raw, err := json.Marshal(map[string]any{"v": drawJSON(t, 2)})
			require.NoError(t, err)
			v := gjson.GetBytes(raw, "v")
			if got := IndexKeys(&path, raw); len(got) == 1 && !v.IsArray() {
				values, keys = append(values, v), append(keys, got[0])
			}
		}
		if len(keys) < 2 {
			return
		}
		require.LessOrEqual(t, len(keys[0]), MaxIndexKeySize)
		full := bytes.Compare(ordered(nil, values[0], 1<<20), ordered(nil, values[1], 1<<20))
		if cut := bytes.Compare(keys[0], keys[1]); cut != 0 {
			require.Equal(t, full, cut)
			require.False(t, bytes.HasPrefix(keys[0], keys[1]) || bytes.HasPrefix(keys[1], keys[0]))
		}
	})
}

func TestIndexKeys(t *testing.T) {
	path, err := ParseFieldPath("v")
	require.NoError(t, err)
	list := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ",%d", i)
		}
		return `{"v":[` + b.String()[1:] + `]}`
	}
	for value, want := range map[string]int{
		`{"v":1}`: 1, `{"v":null}`: 0, `{}`: 0, `{"v":{"a":1}}`: 0, `{"v":[1,1.0,"1",true,null,[2],{}]}`: 3,
		list(MaxIndexKeys): MaxIndexKeys, list(MaxIndexKeys + 1): 1,
	} {
		keys := IndexKeys(&path, []byte(value))
		require.Len(t, keys, want, value)
		require.Equal(t, want > 1 || strings.Contains(value, ",64]"), manyKeys(keys), value)
	}
	require.Equal(t, [][]byte{overflowKey}, IndexKeys(&path, []byte(list(MaxIndexKeys+1))))
	for _, value := range []string{"", `{"v":1`, `{"v":1}}`} {
		require.False(t, IsJSON([]byte(value)), value)
	}
}
