package admin

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// EventsRequest selects the last events of a topic.
type EventsRequest struct {
	Bucket
	Topic string `json:"topic"`
	// Before is EventPage.Next of the page before. Default: the newest events.
	Before uint64 `json:"before,omitempty"`
	// Limit of a page. Default: DefaultPageSize.
	Limit int `json:"limit,omitempty"`
	// Data asks for the payloads.
	Data bool `json:"data,omitempty"`
}

// EventPage is a page of events, the newest first.
type EventPage struct {
	Events []Event `json:"events"`
	// Next is what to continue before; zero: there are no more.
	Next uint64 `json:"next,omitempty"`
}

// EventRequest names an event.
type EventRequest struct {
	Bucket
	Topic    string `json:"topic"`
	Sequence uint64 `json:"sequence"`
}

// EventDetail is an event, and where it stands for each group.
type EventDetail struct {
	Topic string `json:"topic"`
	// Kept says that the event itself is still known; else only its groups are.
	Kept bool `json:"kept"`
	Event
	// CloudEvent has the fields of the envelope but for the data, if the event is a CloudEvent.
	CloudEvent map[string]json.RawMessage `json:"cloudEvent,omitempty"`
	Groups     []EventGroup               `json:"groups"`
}

// EventGroup is where an event stands for a group.
type EventGroup struct {
	Group string            `json:"group"`
	State pubsub.EventState `json:"state"`
	// RetryAt is when the next delivery is.
	RetryAt    time.Time `json:"retryAt,omitzero"`
	Deliveries int       `json:"deliveries"`
	Attempts   []Attempt `json:"attempts"`
	// DeadLetter is the id of the dead letter.
	DeadLetter uint64 `json:"deadLetter,omitempty"`
}

// RetriesRequest selects retries of a topic.
type RetriesRequest struct {
	Bucket
	Topic string `json:"topic"`
	// Group default: all.
	Group string `json:"group,omitempty"`
	// After is RetryPage.Next of the page before.
	After string `json:"after,omitempty"`
	// Limit of a page. Default: DefaultPageSize.
	Limit int `json:"limit,omitempty"`
}

// RetryPage is a page of retries, by group and by when they are due.
type RetryPage struct {
	Retries []Retry `json:"retries"`
	// Next is what to continue after; empty: there are no more.
	Next string `json:"next,omitempty"`
}

// Retry is an event that waits for another delivery to a group.
type Retry struct {
	Group    string `json:"group"`
	Sequence uint64 `json:"sequence"`
	EventID  string `json:"eventId"`
	// Due is when it is delivered again; none: it was redriven, and waits for its turn.
	Due        time.Time `json:"due,omitzero"`
	InFlight   bool      `json:"inFlight"`
	Deliveries int       `json:"deliveries"`
	LastError  string    `json:"lastError"`
}

// RetryRequest names a retry by its event.
type RetryRequest struct {
	Bucket
	Topic    string `json:"topic"`
	Group    string `json:"group"`
	Sequence uint64 `json:"sequence"`
}

// events returns a page of a topic's last events. An event that every group has handled is not kept; of these, the page has
// the few that the process remembers.
func (s *Service) events(ctx context.Context, broker pubsub.Service, request EventsRequest) (page EventPage, err error) {
	limit, err := pageSize(request.Limit)
	if err != nil {
		return page, err
	}
	events, next, err := broker.Events(ctx, request.Topic, request.Before, limit)
	if err != nil {
		return page, err
	}
	page = EventPage{Events: make([]Event, len(events)), Next: next}
	for i := range events {
		page.Events[i] = newEvent(&events[i], request.Data)
	}
	return page, nil
}

// event returns an event and where it stands for each group.
func (s *Service) event(ctx context.Context, broker pubsub.Service, request EventRequest) (EventDetail, error) {
	trace, err := broker.Trace(ctx, request.Topic, request.Sequence)
	if err != nil {
		return EventDetail{}, err
	}
	answer := EventDetail{Topic: request.Topic, Kept: trace.Event != nil, Groups: []EventGroup{}}
	answer.Sequence, answer.Metadata = request.Sequence, map[string]string{}
	if trace.Event != nil {
		answer.Event = newEvent(trace.Event, true)
		answer.CloudEvent = cloudEvent(trace.Event)
	}
	for _, g := range trace.Groups {
		answer.Groups = append(answer.Groups, EventGroup{
			Group: g.Group, State: g.State, RetryAt: g.Due, Deliveries: g.History.Deliveries, Attempts: newAttempts(g.History.Attempts),
			DeadLetter: g.DeadLetter,
		})
	}
	return answer, nil
}

// cloudEvent returns the envelope's fields but for the data; nil: it is no CloudEvent.
func cloudEvent(e *pubsub.Event) (fields map[string]json.RawMessage) {
	if !strings.Contains(e.ContentType, "cloudevents") || json.Unmarshal(e.Data, &fields) != nil {
		return nil
	}
	delete(fields, "data")
	delete(fields, "data_base64")
	return fields
}

// retries returns a page of the retries of a topic.
func (s *Service) retries(ctx context.Context, broker pubsub.Service, request RetriesRequest) (RetryPage, error) {
	page := RetryPage{Retries: []Retry{}}
	limit, err := pageSize(request.Limit)
	if err != nil {
		return page, err
	}
	from := pubsub.RetryPlace{Group: request.Group}
	if err := parseCursor(request.After, &from); err != nil {
		return page, err
	}
	retries, next, err := broker.Retries(ctx, request.Topic, from, limit)
	if err != nil {
		return page, err
	}
	for i := range retries {
		r := &retries[i]
		if request.Group != "" && r.Group != request.Group {
			return page, nil
		}
		out := Retry{
			Group: r.Group, Sequence: r.Event.Sequence, EventID: r.Event.ID, InFlight: r.InFlight, Deliveries: r.History.Deliveries,
			LastError: r.Event.Unreadable,
		}
		if n := len(r.History.Attempts); n > 0 {
			out.LastError = r.History.Attempts[n-1].Error
		}
		if !r.Key.Redriven {
			out.Due = time.Unix(0, r.Key.Order)
		}
		page.Retries = append(page.Retries, out)
	}
	if next != (pubsub.RetryPlace{}) && (request.Group == "" || next.Group == request.Group) {
		page.Next = cursor(next)
	}
	return page, nil
}

// retryNow has a waiting retry delivered at once.
func (s *Service) retryNow(ctx context.Context, broker pubsub.Service, r RetryRequest) (Empty, error) {
	err := broker.RetryNow(ctx, r.Topic, r.Group, r.Sequence)
	return s.done(ctx, err, "a retry was made due", r.Bucket, "topic", r.Topic, "group", r.Group, "sequence", r.Sequence)
}

// retrySkip makes a dead letter of a waiting retry.
func (s *Service) retrySkip(ctx context.Context, broker pubsub.Service, r RetryRequest) (Empty, error) {
	err := broker.SkipRetry(ctx, r.Topic, r.Group, r.Sequence)
	return s.done(ctx, err, "a retry was skipped", r.Bucket, "topic", r.Topic, "group", r.Group, "sequence", r.Sequence)
}
