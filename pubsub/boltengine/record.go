package boltengine

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// recordVersion is the byte that every record begins with.
const recordVersion = 1

type topicRecord struct {
	ID    uint32 `cbor:"1,keyasint"`
	First uint64 `cbor:"2,keyasint"`
	Last  uint64 `cbor:"3,keyasint"`
	// Bytes is what the topic's events take: those of the log, the delayed ones, and those that groups retry or have redriven.
	Bytes int64 `cbor:"4,keyasint"`
	// MaxAge is what the newest publisher asked for; the sweep goes by it.
	MaxAge time.Duration `cbor:"5,keyasint,omitempty"`
	// MaxBytes likewise; it is shown to people.
	MaxBytes int64 `cbor:"6,keyasint,omitempty"`
}

// aged reports whether an event is older than the topic keeps it: see pubsub.AgesAt.
func (t *topicRecord) aged(available time.Time, redriven int, now time.Time) bool {
	return instant.Reached(pubsub.AgesAt(t.MaxAge, available, redriven), now)
}

type groupRecord struct {
	ID uint32 `cbor:"1,keyasint"`
	// Done is the sequence up to which the log is settled for the group.
	Done uint64 `cbor:"2,keyasint"`
	// After is the sequence behind which the group begins; earlier builds did not write it down.
	After uint64 `cbor:"3,keyasint,omitempty"`
}

type eventRecord struct {
	ID           string            `cbor:"1,keyasint,omitempty"`
	Data         []byte            `cbor:"2,keyasint"`
	ContentType  string            `cbor:"3,keyasint,omitempty"`
	Metadata     map[string]string `cbor:"4,keyasint,omitempty"`
	PublishTime  int64             `cbor:"5,keyasint"`
	Expires      int64             `cbor:"6,keyasint,omitempty"`
	PartitionKey string            `cbor:"7,keyasint,omitempty"`
	DeliverAt    int64             `cbor:"8,keyasint,omitempty"`
}

type attemptRecord struct {
	At    int64  `cbor:"1,keyasint"`
	Error string `cbor:"2,keyasint"`
}

type historyRecord struct {
	Deliveries int             `cbor:"1,keyasint"`
	Attempts   []attemptRecord `cbor:"2,keyasint,omitempty"`
	Redriven   int             `cbor:"3,keyasint,omitempty"`

	Interruptions int `cbor:"4,keyasint,omitempty"`
}

type retryRecord struct {
	Event   []byte        `cbor:"1,keyasint"` // an encoded eventRecord
	History historyRecord `cbor:"2,keyasint"`
	After   uint64        `cbor:"3,keyasint,omitempty"`
}

type deadRecord struct {
	Topic    string        `cbor:"1,keyasint"`
	Group    string        `cbor:"2,keyasint"`
	Sequence uint64        `cbor:"3,keyasint"`
	Event    []byte        `cbor:"4,keyasint"` // an encoded eventRecord
	History  historyRecord `cbor:"5,keyasint"`
	Reason   string        `cbor:"6,keyasint"`
	Time     int64         `cbor:"7,keyasint"`
}

var (
	encoding = must(cbor.EncOptions{}.UserBufferEncMode())
	// What the encoder may write can be read: it sets no limit to entries, and an event id is whatever a publisher's
	// payload holds, UTF-8 or not.
	decoding = must(cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// recordOverhead is more than most records take beside their variable part.
const recordOverhead = 64

// encode returns the bytes of a record whose variable part takes about size bytes.
func encode(record any, size int) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, size+recordOverhead))
	buf.WriteByte(recordVersion)
	if err := encoding.MarshalToBuffer(record, buf); err != nil {
		return nil, fmt.Errorf("encode %T: %w", record, err)
	}
	return buf.Bytes(), nil
}

func decode(raw []byte, record any) error {
	if len(raw) == 0 {
		return fmt.Errorf("decode %T: it is empty", record)
	}
	if raw[0] != recordVersion {
		return fmt.Errorf("decode %T: it has version %d, this build reads version %d", record, raw[0], recordVersion)
	}
	if err := decoding.Unmarshal(raw[1:], record); err != nil {
		return fmt.Errorf("decode %T: %w", record, err)
	}
	return nil
}

func encodeEvent(e *pubsub.Event) ([]byte, error) {
	size := len(e.ID) + len(e.Data) + len(e.ContentType) + len(e.PartitionKey)
	for k, v := range e.Metadata {
		size += len(k) + len(v) + 8
	}
	return encode(&eventRecord{
		ID:           e.ID,
		Data:         e.Data,
		ContentType:  e.ContentType,
		Metadata:     e.Metadata,
		PublishTime:  e.PublishTime.UnixNano(),
		DeliverAt:    nanos(e.DeliverAt),
		Expires:      nanos(e.Expires),
		PartitionKey: e.PartitionKey,
	}, size)
}

// decodeEvent returns the event, or what there is to see of it if it cannot be decoded.
func decodeEvent(raw []byte, topic string, sequence uint64) pubsub.Event {
	var r eventRecord
	if err := decode(raw, &r); err != nil {
		return pubsub.Event{Sequence: sequence, Topic: topic, Data: bytes.Clone(raw), Unreadable: err.Error()}
	}
	return pubsub.Event{
		Sequence:     sequence,
		Topic:        topic,
		ID:           r.ID,
		Data:         r.Data,
		ContentType:  r.ContentType,
		Metadata:     r.Metadata,
		PublishTime:  time.Unix(0, r.PublishTime),
		DeliverAt:    fromNanos(r.DeliverAt),
		Expires:      fromNanos(r.Expires),
		PartitionKey: r.PartitionKey,
	}
}

// eventTimes are the part of an eventRecord that can be had without its payload.
type eventTimes struct {
	PublishTime int64 `cbor:"5,keyasint"`
	DeliverAt   int64 `cbor:"8,keyasint"`
}

func decodeTimes(event []byte) (t eventTimes, err error) {
	err = decode(event, &t)
	return t, err
}

// availableAt is pubsub.Event.AvailableAt.
func (t eventTimes) availableAt() time.Time { return time.Unix(0, max(t.PublishTime, t.DeliverAt)) }

// decodeRetryRecord returns the record; of one that cannot be decoded, all that is stored stands for its event.
func decodeRetryRecord(raw []byte) retryRecord {
	var r retryRecord
	if decode(raw, &r) != nil {
		return retryRecord{Event: bytes.Clone(raw), History: historyRecord{Deliveries: 1}}
	}
	return r
}

func decodeRetry(raw []byte, topic string, k pubsub.RetryKey) pubsub.Retry {
	r := decodeRetryRecord(raw)
	return pubsub.Retry{Key: k, Event: decodeEvent(r.Event, topic, k.Sequence), History: historyFromRecord(r.History), After: r.After}
}

// decodeDeadRecord likewise; then it is nobody's.
func decodeDeadRecord(raw []byte) deadRecord {
	var r deadRecord
	if decode(raw, &r) != nil {
		return deadRecord{Event: bytes.Clone(raw)}
	}
	return r
}

// deadHead is a deadRecord without its event, which is not copied.
type deadHead struct {
	Topic    string        `cbor:"1,keyasint"`
	Group    string        `cbor:"2,keyasint"`
	Sequence uint64        `cbor:"3,keyasint"`
	History  historyRecord `cbor:"5,keyasint"`
	Reason   string        `cbor:"6,keyasint"`
	Time     int64         `cbor:"7,keyasint"`
}

// decodeDeadHead returns an empty one, which is nobody's, for a record that cannot be decoded.
func decodeDeadHead(raw []byte) deadHead {
	var r deadHead
	if decode(raw, &r) != nil {
		return deadHead{}
	}
	return r
}

func historyToRecord(h pubsub.History) historyRecord {
	r := historyRecord{Deliveries: h.Deliveries, Interruptions: h.Interruptions, Redriven: h.Redriven}
	for _, a := range h.Attempts {
		r.Attempts = append(r.Attempts, attemptRecord{At: a.At.UnixNano(), Error: a.Error})
	}
	return r
}

func historyFromRecord(r historyRecord) pubsub.History {
	h := pubsub.History{Deliveries: r.Deliveries, Interruptions: r.Interruptions, Redriven: r.Redriven}
	for _, a := range r.Attempts {
		h.Attempts = append(h.Attempts, pubsub.Attempt{At: time.Unix(0, a.At), Error: a.Error})
	}
	return h
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
