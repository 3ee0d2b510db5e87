package pubsub

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// Whatever JSON comes in, white space changes nothing, and no two members run together.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"a":[1,1.0,-0,1e2,12E-1],"b":"\u0061"}`, `[[],{},null,true,""]`, `1e99999999999`, `{"a":1,"a":2}`, "\"\xff\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, _ = cloudEventID(data)
		_ = eventData(data)
		if !json.Valid(data) {
			return
		}
		canonical := appendCanonical(nil, gjson.ParseBytes(data))
		var spaced bytes.Buffer
		require.NoError(t, json.Indent(&spaced, data, "\n", "\t"))
		require.Equal(t, canonical, appendCanonical(nil, gjson.ParseBytes(spaced.Bytes())))
		within := append(append([]byte("["), data...), ']')
		require.Equal(t, string(canonical), string(appendCanonical(nil, gjson.ParseBytes(within))[1:len(canonical)+1]))
	})
}
