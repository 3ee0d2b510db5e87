package pubsub

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// DedupBy says what makes two events the same one. The zero value is by id.
type DedupBy struct {
	mode   dedupMode
	fields []string
}

type dedupMode string

const (
	dedupID     dedupMode = ""
	dedupData   dedupMode = "data"
	dedupFields dedupMode = "fields:"
	dedupNone   dedupMode = "none"
)

// ParseDedupBy reads "id", "data", "none" or "fields:" with a comma-separated list of JSON paths.
func ParseDedupBy(s string) (DedupBy, error) {
	refused := invalid.New("dedupBy", s, "id, data, none, or fields:PATH[,PATH…] with JSON paths into the payload")
	switch mode := dedupMode(s); {
	case s == "id":
		return DedupBy{}, nil
	case mode == dedupData, mode == dedupNone:
		return DedupBy{mode: mode}, nil
	}
	list, ok := strings.CutPrefix(s, string(dedupFields))
	if !ok {
		return DedupBy{}, refused
	}
	fields := strings.Split(list, ",")
	for i, f := range fields {
		fields[i] = strings.TrimSpace(f)
		if fields[i] == "" {
			return DedupBy{}, refused
		}
	}
	return DedupBy{mode: dedupFields, fields: fields}, nil
}

// String is the form that ParseDedupBy reads.
func (d DedupBy) String() string {
	if d.mode == dedupID {
		return "id"
	}
	return string(d.mode) + strings.Join(d.fields, ",")
}

// jsonSpace is the white space that may stand around a JSON value (RFC 8259, section 2).
const jsonSpace = " \t\r\n"

// cloudEventID returns the id and source of a CloudEvent in JSON (structured mode, CloudEvents 1.0 §3.1), or false
// if data is not one.
func cloudEventID(data []byte) (id, source string, ok bool) {
	data = bytes.TrimLeft(data, jsonSpace)
	if len(data) == 0 || data[0] != '{' {
		return "", "", false
	}
	// One pass over the payload, which is not copied: what is found is.
	var found struct{ version, id, source bool }
	gjson.Parse(unsafe.String(&data[0], len(data))).ForEach(func(key, value gjson.Result) bool {
		switch {
		case key.Str == "specversion":
			found.version = true
		case key.Str == "id" && !found.id:
			found.id, id = true, strings.Clone(value.String())
		case key.Str == "source" && !found.source:
			found.source, source = true, strings.Clone(value.String())
		}
		return !(found.version && found.id && found.source)
	})
	if !found.version || id == "" {
		return "", "", false
	}
	return id, source, true
}

// ID returns what people know the message's event by: its EventID, else the id of the CloudEvent that its data is. Empty: it
// has none.
func (m *Message) ID() string {
	if m.EventID != "" {
		return m.EventID
	}
	id, _, _ := cloudEventID(m.Data)
	return id
}

// key returns what identifies the message (nil: nothing does, or nothing shall) and the id that people know it by.
func (d DedupBy) key(m *Message) (key []byte, id string, err error) {
	if d.mode == dedupID && m.EventID != "" {
		return hashed("id", []byte(m.EventID)), m.EventID, nil
	}
	ceID, ceSource, isCloudEvent := cloudEventID(m.Data)
	id = cmp.Or(m.EventID, ceID)
	data := m.Data
	if isCloudEvent && d.mode != dedupID {
		data = eventData(m.Data)
	}
	switch {
	case d.mode == dedupNone:
	case d.mode == dedupFields:
		key, err = d.fieldsKey(data, m.Data)
	case d.mode == dedupData && !(isCloudEvent && len(data) == 0):
		key = hashed("data", data)
	// What has no data is told apart by its id.
	case m.EventID != "":
		key = hashed("id", []byte(m.EventID))
	case isCloudEvent:
		key = hashed("ce", []byte(ceSource), []byte(ceID))
	}
	return key, id, err
}

// eventData returns the application's data inside a CloudEvent, whose envelope is new each time, as it stands there;
// nothing if there is none, null, or an empty string, which is what Dapr makes of an empty payload.
func eventData(event []byte) []byte {
	for _, member := range []string{"data", "data_base64"} {
		if data := gjson.GetBytes(event, member); data.Exists() && data.Type != gjson.Null && data.Raw != `""` {
			return []byte(data.Raw)
		}
	}
	return nil
}

// fieldsKey takes the values of the fields from the event's data or, if any is missing there, all from the envelope.
func (d DedupBy) fieldsKey(data, envelope []byte) ([]byte, error) {
	// Unlike gjson's, this check bounds how deep values are nested.
	if !json.Valid(envelope) {
		return nil, invalid.New("payload", fmt.Sprintf("of %d bytes", len(envelope)), fmt.Sprintf("JSON, since dedupBy is %q", d))
	}
	values, missing := d.values(data)
	if missing != "" {
		values, missing = d.values(envelope)
	}
	if missing != "" {
		return nil, invalid.New("payload", "without "+missing, fmt.Sprintf("JSON that holds every field of dedupBy %q, in the event's data or in the envelope", d))
	}
	return hashed("fields", values...), nil
}

// values returns the fields' values in canonical form, or the first field that is missing.
func (d DedupBy) values(data []byte) (values [][]byte, missing string) {
	for _, path := range d.fields {
		v := gjson.GetBytes(data, path)
		if !v.Exists() {
			return nil, path
		}
		values = append(values, appendCanonical(nil, v))
	}
	return values, ""
}

// hashed is a SHA-256 over parts, each with its length before it so that no two lists of parts run together alike.
func hashed(mode string, parts ...[]byte) []byte {
	h := sha256.New()
	h.Write([]byte(mode))
	var length [8]byte
	for _, p := range parts {
		binary.LittleEndian.PutUint64(length[:], uint64(len(p)))
		h.Write(length[:])
		h.Write(p)
	}
	return h.Sum(nil)
}
