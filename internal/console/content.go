package console

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

const (
	// maxText and maxHex are how many bytes of a payload or a value a page shows; the rest can be saved as a file.
	maxText = 64 << 10
	maxHex  = 8 << 10
)

// The ways to show bytes.
const (
	asJSON = "json"
	asText = "text"
	asHex  = "hex"
)

// content is a payload or a value as a page shows it.
type content struct {
	// As is how it is shown, of Ways.
	As   string
	Ways []way
	Text string
	// Size is that of all of it in bytes, Shown of what is shown of it.
	Size, Shown int
	// Save is where all of it can be had as a file.
	Save string
}

type way struct{ Name, Link string }

// newContent shows data as the request's parameter "as" says, or as what it is.
func newContent(r *http.Request, data []byte, save string) *content {
	v := &content{Size: len(data), Shown: len(data), Save: save}
	names := []string{asText, asHex}
	laidOut, isJSON := layOut(data)
	switch {
	case !utf8.Valid(data):
		slices.Reverse(names)
	case isJSON:
		names = []string{asJSON, asText, asHex}
	}
	for _, name := range names {
		query := r.URL.Query()
		query.Set("as", name)
		v.Ways = append(v.Ways, way{name, r.URL.Path + "?" + query.Encode()})
	}
	if v.As = r.URL.Query().Get("as"); !slices.Contains(names, v.As) {
		v.As = names[0]
	}
	switch v.As {
	case asHex:
		v.Shown = min(v.Shown, maxHex)
		v.Text = hex.Dump(data[:v.Shown])
	case asJSON:
		v.Text = visible(laidOut)
	default:
		v.Shown = min(v.Shown, maxText)
		v.Text = visible(string(data[:v.Shown]))
	}
	return v
}

// maxDepth is how deep JSON may be to be laid out: every line begins with that many spaces, twice.
const maxDepth = 32

// layOut returns JSON with line breaks and indentation, if it is small enough to be shown in whole.
func layOut(data []byte) (string, bool) {
	if len(data) > maxText {
		return "", false
	}
	depth := 0
	for _, b := range data {
		switch b {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth > maxDepth {
			return "", false
		}
	}
	var b bytes.Buffer
	err := json.Indent(&b, data, "", "  ")
	return b.String(), err == nil
}

// Cut reports whether not all of it is shown.
func (v *content) Cut() bool { return v.Shown < v.Size }

// field is a name and what it stands for.
type field struct{ Name, Value string }

// cloudEventFields are those of a CloudEvent in JSON, but for its data.
func cloudEventFields(data []byte) (fields []field) {
	if gjson.GetBytes(data, "specversion").Type != gjson.String {
		return nil
	}
	gjson.ParseBytes(data).ForEach(func(name, value gjson.Result) bool {
		if name.Str != "data" && name.Str != "data_base64" && len(fields) < maxFields {
			fields = append(fields, field{short(name.Str), short(value.String())})
		}
		return true
	})
	return fields
}

// maxFields bounds the fields of an event that a page shows.
const maxFields = 100

// metadataFields are the entries of an event's metadata, by name.
func (c *Console) metadataFields(metadata map[string]string) (fields []field) {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		value := short(metadata[name])
		if c.opts.HideValues {
			value = "hidden"
		}
		if fields = append(fields, field{short(name), value}); len(fields) == maxFields {
			break
		}
	}
	return fields
}

// save serves what fetch returns as a file to save, which no browser interprets: byte for byte but for white space of JSON.
func (c *Console) save(fetch func(r *http.Request) (name string, data []byte, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c.opts.HideValues {
			c.write(w, r, &page{Title: "Hidden", status: http.StatusForbidden, template: "problem.html",
				Data: problem{Error: "Payloads and values are hidden: dapr-bolt was started with --console-hide-values."}})
			return
		}
		r.Form = r.URL.Query()
		name, data, err := fetch(r)
		if err != nil {
			c.write(w, r, c.problem(r, err))
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
		// An error here means that the browser has left.
		_, _ = w.Write(data)
	}
}
