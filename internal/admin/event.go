package admin

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// DataEncoding says how a payload or a value stands in JSON.
type DataEncoding string

const (
	// DataJSON: it is JSON and stands as it is.
	DataJSON DataEncoding = "json"
	// DataText: it is UTF-8 text and stands as a string.
	DataText DataEncoding = "text"
	// DataBase64: it is anything else and stands as a string in base64 (RFC 4648, section 4).
	DataBase64 DataEncoding = "base64"
)

// Content is a payload or a value.
type Content struct {
	// DataEncoding is empty where the content was not asked for.
	DataEncoding DataEncoding    `json:"dataEncoding,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
}

// NewContent returns data in the form that people read best: JSON stands as it is, and may lose white space.
func NewContent(data []byte) Content {
	if utf8.Valid(data) && json.Valid(data) {
		return Content{DataJSON, data}
	}
	return ExactContent(data)
}

// ExactContent returns data in a form that keeps it byte for byte.
func ExactContent(data []byte) Content {
	if utf8.Valid(data) {
		return Content{DataText, quoted(string(data))}
	}
	return Content{DataBase64, quoted(base64.StdEncoding.EncodeToString(data))}
}

// quoted returns text, which must be UTF-8, as a JSON string.
func quoted(text string) json.RawMessage {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string can always be marshaled
	}
	return raw
}

// Payload returns the content byte for byte, except that JSON may have lost white space.
func (c *Content) Payload() ([]byte, error) {
	var text string
	switch c.DataEncoding {
	case DataJSON, "":
		return c.Data, nil
	case DataText, DataBase64:
		if err := json.Unmarshal(c.Data, &text); err != nil {
			return nil, badRequest("data: with dataEncoding %s: allowed: a string", c.DataEncoding)
		}
	default:
		return nil, badRequest("dataEncoding %q: allowed: %s, %s, %s", c.DataEncoding, DataJSON, DataText, DataBase64)
	}
	if c.DataEncoding == DataText {
		return []byte(text), nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, badRequest("data: with dataEncoding %s: allowed: base64: %w", DataBase64, err)
	}
	return data, nil
}

// Event is an event as the admin socket and `--output json` show it.
type Event struct {
	ID           string            `json:"id"`
	Sequence     uint64            `json:"sequence"`
	PublishTime  time.Time         `json:"publishTime,omitzero"`
	Expires      time.Time         `json:"expires,omitzero"`
	PartitionKey string            `json:"partitionKey,omitempty"`
	ContentType  string            `json:"contentType"`
	Metadata     map[string]string `json:"metadata"`
	// Size is the payload's length in bytes.
	Size int `json:"size"`
	// Unreadable says why what is stored of the event cannot be decoded; the payload is then what is stored.
	Unreadable string `json:"unreadable,omitempty"`
	Content
}

func newEvent(e *pubsub.Event, withData bool) Event {
	out := Event{
		ID:           e.ID,
		Sequence:     e.Sequence,
		PublishTime:  e.PublishTime,
		Expires:      e.Expires,
		PartitionKey: e.PartitionKey,
		ContentType:  e.ContentType,
		Metadata:     e.Metadata,
		Size:         len(e.Data),
		Unreadable:   e.Unreadable,
	}
	if out.Metadata == nil {
		out.Metadata = map[string]string{}
	}
	if withData {
		out.Content = NewContent(e.Data)
	}
	return out
}
