package admin

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// DataEncoding says how an event's payload stands in JSON.
type DataEncoding string

const (
	// DataJSON: the payload is JSON and stands as it is.
	DataJSON DataEncoding = "json"
	// DataText: the payload is UTF-8 text and stands as a string.
	DataText DataEncoding = "text"
	// DataBase64: the payload is anything else and stands as a string in base64 (RFC 4648, section 4).
	DataBase64 DataEncoding = "base64"
)

// DeadLetter is a dead letter as the admin socket and `--output json` show it.
type DeadLetter struct {
	// Bucket is where it is: an id stands for one dead letter of one bucket.
	Bucket
	ID         uint64        `json:"id"`
	Topic      string        `json:"topic"`
	Group      string        `json:"group"`
	Reason     pubsub.Reason `json:"reason"`
	Time       time.Time     `json:"time,omitzero"`
	LastError  string        `json:"lastError"`
	Deliveries int           `json:"deliveries"`
	Redriven   int           `json:"redriven"`
	Attempts   []Attempt     `json:"attempts"`
	Event      Event         `json:"event"`
}

// Attempt is one delivery that failed or was interrupted.
type Attempt struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// Event is the event of a dead letter.
type Event struct {
	ID           string            `json:"id"`
	Sequence     uint64            `json:"sequence"`
	PublishTime  time.Time         `json:"publishTime,omitzero"`
	Expires      *time.Time        `json:"expires,omitempty"`
	PartitionKey string            `json:"partitionKey,omitempty"`
	ContentType  string            `json:"contentType"`
	Metadata     map[string]string `json:"metadata"`
	// Size is the payload's length in bytes.
	Size int `json:"size"`
	// Unreadable says why what is stored of the event cannot be decoded; the payload is then what is stored.
	Unreadable string `json:"unreadable,omitempty"`
	// DataEncoding is empty where the payload was not asked for.
	DataEncoding DataEncoding    `json:"dataEncoding,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
}

func newDeadLetter(bucket Bucket, d *pubsub.DeadLetter, withData bool) (DeadLetter, error) {
	e := &d.Event
	out := DeadLetter{
		Bucket:     bucket.WithDefaults(),
		ID:         d.ID,
		Topic:      e.Topic,
		Group:      d.Group,
		Reason:     d.Reason,
		Time:       d.Time,
		LastError:  d.LastError(),
		Deliveries: d.History.Deliveries,
		Redriven:   d.History.Redriven,
		Attempts:   make([]Attempt, len(d.History.Attempts)),
		Event: Event{
			ID:           e.ID,
			Sequence:     e.Sequence,
			PublishTime:  e.PublishTime,
			PartitionKey: e.PartitionKey,
			ContentType:  e.ContentType,
			Metadata:     e.Metadata,
			Size:         len(e.Data),
			Unreadable:   e.Unreadable,
		},
	}
	for i, a := range d.History.Attempts {
		out.Attempts[i] = Attempt{At: a.At, Error: a.Error}
	}
	if !e.Expires.IsZero() {
		out.Event.Expires = &e.Expires
	}
	if out.Event.Metadata == nil {
		out.Event.Metadata = map[string]string{}
	}
	if !withData {
		return out, nil
	}
	var err error
	out.Event.DataEncoding, out.Event.Data, err = encodeData(e.Data)
	return out, err
}

func encodeData(data []byte) (DataEncoding, json.RawMessage, error) {
	encoding, text := DataText, string(data)
	switch {
	case !utf8.Valid(data):
		encoding, text = DataBase64, base64.StdEncoding.EncodeToString(data)
	case json.Valid(data):
		return DataJSON, data, nil
	}
	quoted, err := json.Marshal(text)
	return encoding, quoted, err
}

// Payload returns the event's data byte for byte as it was published, except that JSON may have lost white space.
func (e *Event) Payload() ([]byte, error) {
	if e.DataEncoding == DataJSON || e.DataEncoding == "" {
		return e.Data, nil
	}
	var text string
	if err := json.Unmarshal(e.Data, &text); err != nil {
		return nil, err
	}
	if e.DataEncoding == DataBase64 {
		return base64.StdEncoding.DecodeString(text)
	}
	return []byte(text), nil
}
