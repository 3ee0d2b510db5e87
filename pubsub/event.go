package pubsub

import "time"

// Message is what a publisher hands over.
type Message struct {
	// Data is the payload, byte for byte as subscribers will get it: a CloudEvent in JSON, or anything at all when the
	// publisher asked Dapr for a raw payload.
	Data        []byte
	ContentType string
	// Metadata travels with the event to every subscriber.
	Metadata map[string]string
	// EventID names the event for deduplication by id. Empty: the CloudEvent's source and id are taken.
	EventID string
	// TTL ends the event that long after it was published. Zero: it does not end by itself.
	TTL time.Duration
	// DeliverAt holds the event back until then. Zero: deliver at once.
	DeliverAt time.Time
	// PartitionKey keeps the events that carry the same key in order, even while one of them is retried.
	PartitionKey string
}

// Event is a message that a topic has accepted.
type Event struct {
	// Sequence is the event's place in its topic, starting at 1 and never used again.
	Sequence uint64
	// Topic is the topic that the event was published to.
	Topic string
	// ID is what the event is known by: its event id, or empty if it has none.
	ID          string
	Data        []byte
	ContentType string
	Metadata    map[string]string
	PublishTime time.Time
	// DeliverAt is when the event was due that was held back; zero: it was not.
	DeliverAt    time.Time
	Expires      time.Time
	PartitionKey string
	// Unreadable says why what is stored of the event cannot be decoded; empty: it can. Data is then what is stored, byte
	// for byte, and nothing but Sequence and Topic is known beside it.
	Unreadable string
}

// AvailableAt returns when the event was published or, if it was held back, was due.
func (e *Event) AvailableAt() time.Time {
	if e.DeliverAt.After(e.PublishTime) {
		return e.DeliverAt
	}
	return e.PublishTime
}

// eventOverhead is what an event takes in memory beside its contents, until it is sent.
const eventOverhead = 1 << 10

// size is the memory that an event takes.
func (e *Event) size() int {
	n := len(e.Data) + len(e.ID) + len(e.ContentType) + len(e.PartitionKey) + eventOverhead
	for k, v := range e.Metadata {
		n += len(k) + len(v)
	}
	return n
}

// Attempt is one delivery that failed or was interrupted.
type Attempt struct {
	At    time.Time
	Error string
}

// maxAttemptsKept bounds what a retried event carries along when the number of its deliveries is not limited. The
// count of deliveries is always exact.
const maxAttemptsKept = 32

// History is what a consumer group knows of an event that it has not handled yet.
type History struct {
	// Deliveries counts the deliveries that failed.
	Deliveries int
	// Interruptions counts the streams that have ended over the event since then: no failed delivery was between them.
	Interruptions int
	// Attempts are the newest of both, oldest first.
	Attempts []Attempt
	// Redriven counts how often the event was sent back from the dead letters.
	Redriven int
}

// size is the memory that the history takes.
func (h *History) size() int {
	n := 0
	for i := range h.Attempts {
		n += len(h.Attempts[i].Error)
	}
	return n
}

// failed returns the history after one more failed delivery.
func (h History) failed(a Attempt) History {
	return History{Deliveries: h.Deliveries + 1, Attempts: h.with(a), Redriven: h.Redriven}
}

// interrupted returns the history after one more interruption.
func (h History) interrupted(at time.Time) History {
	h.Attempts = h.with(Attempt{At: at, Error: "the stream ended while it was this event's turn"})
	h.Interruptions++
	return h
}

func (h *History) with(a Attempt) []Attempt {
	attempts := append(append([]Attempt(nil), h.Attempts...), a)
	return attempts[max(len(attempts)-maxAttemptsKept, 0):]
}
