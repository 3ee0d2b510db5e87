package admin

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// readStep is how many dead letters are in memory at once while a page is put together.
const readStep = 16

// deadLetterScan is how many dead letters one call looks at.
const deadLetterScan = 10_000

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

// DeadLetterPage is one page of a list.
type DeadLetterPage struct {
	DeadLetters []DeadLetter `json:"deadLetters"`
	// Next is what to continue after; zero: this was the last page.
	Next uint64 `json:"next,omitempty"`
}

// ListOptions select dead letters; the zero value selects the first page of all, without payloads.
type ListOptions struct {
	Bucket
	Topic string `json:"topic,omitempty"`
	Group string `json:"group,omitempty"`
	// Since selects those that died at or after it, and Before those that died before it.
	Since  time.Time     `json:"since,omitzero"`
	Before time.Time     `json:"before,omitzero"`
	Reason pubsub.Reason `json:"reason,omitempty"`
	// Cause selects those of a DeadLetterGroup.
	Cause string `json:"cause,omitempty"`
	// Text selects those whose payload, event id or any error holds it, case-insensitively.
	Text string `json:"text,omitempty"`
	// After is the id to continue after.
	After uint64 `json:"after,omitempty"`
	// Limit bounds the page, at most MaxPageSize. Default: pubsub.DefaultPageSize. A page with payloads may be shorter.
	Limit int `json:"limit,omitempty"`
	// Data asks for the payloads.
	Data bool `json:"data,omitempty"`
}

// IDRequest names a dead letter.
type IDRequest struct {
	Bucket
	ID uint64 `json:"id"`
}

// IDsRequest names dead letters.
type IDsRequest struct {
	Bucket
	IDs []uint64 `json:"ids"`
}

// RedriveResult says what went back to its group.
type RedriveResult struct {
	Redriven []uint64 `json:"redriven"`
	// Unreadable were left where they are: what is stored of them cannot be decoded.
	Unreadable []uint64 `json:"unreadable,omitempty"`
}

// PurgeResult says how many dead letters are gone.
type PurgeResult struct {
	Purged int `json:"purged"`
}

func newDeadLetter(bucket Bucket, d *pubsub.DeadLetter, withData bool) DeadLetter {
	return DeadLetter{
		Bucket:     bucket,
		ID:         d.ID,
		Topic:      d.Event.Topic,
		Group:      d.Group,
		Reason:     d.Reason,
		Time:       d.Time,
		LastError:  d.LastError(),
		Deliveries: d.History.Deliveries,
		Redriven:   d.History.Redriven,
		Attempts:   newAttempts(d.History.Attempts),
		Event:      newEvent(&d.Event, withData),
	}
}

func newAttempts(attempts []pubsub.Attempt) []Attempt {
	out := make([]Attempt, len(attempts))
	for i, a := range attempts {
		out[i] = Attempt(a)
	}
	return out
}

// deadLetters returns one page, by ascending id. It takes little more memory than its payloads, or than its metadata where
// those were not asked for.
func (s *Service) deadLetters(ctx context.Context, broker pubsub.Service, opts ListOptions) (out DeadLetterPage, err error) {
	if opts.Limit, err = pageSize(opts.Limit); err != nil {
		return out, err
	}
	out.DeadLetters = []DeadLetter{}
	bytes, full := 0, false
	next, err := eachDeadLetter(ctx, broker, opts, func(d *pubsub.DeadLetter) bool {
		// There is a next page if there is one more than fits.
		full = len(out.DeadLetters) == opts.Limit || opts.Data && bytes > 0 && bytes+len(d.Event.Data) > maxPageBytes
		if full {
			return false
		}
		out.DeadLetters = append(out.DeadLetters, newDeadLetter(opts.Bucket, d, opts.Data))
		bytes += len(d.Event.Data)
		return true
	})
	if out.Next = next; full {
		out.Next = out.DeadLetters[len(out.DeadLetters)-1].ID
	}
	return out, err
}

// eachDeadLetter calls visit with what the options select, by ascending id, until it returns false or some deadLetterScan
// dead letters were looked at. Few of them are in memory at once. next is what to continue after; zero: there are no more.
func eachDeadLetter(ctx context.Context, broker pubsub.Service, opts ListOptions, visit func(*pubsub.DeadLetter) bool) (next uint64, err error) {
	filter := pubsub.DeadLetterFilter{
		Topic: opts.Topic, Group: opts.Group, Since: opts.Since, Before: opts.Before, Reason: opts.Reason, Text: opts.Text,
		After: opts.After, Limit: readStep,
	}
	for left := deadLetterScan; left > 0; left -= readStep {
		letters, next, err := broker.DeadLetters(ctx, filter, left)
		if err != nil {
			return 0, err
		}
		for i := range letters {
			d := &letters[i]
			if (opts.Cause == "" || causeOf(d) == opts.Cause) && !visit(d) {
				return d.ID, nil
			}
		}
		// Fewer than asked for: all of left were looked at, or there are no more.
		if filter.After = next; len(letters) < readStep || next == 0 {
			return next, nil
		}
	}
	return filter.After, nil
}

// deadLetter returns one dead letter with its payload.
func (s *Service) deadLetter(ctx context.Context, broker pubsub.Service, request IDRequest) (DeadLetter, error) {
	d, err := broker.DeadLetter(ctx, request.ID)
	if err != nil {
		return DeadLetter{}, err
	}
	return newDeadLetter(request.Bucket, &d, true), nil
}

func (r *IDsRequest) check() error {
	if len(r.IDs) == 0 || len(r.IDs) > MaxIDs {
		return badRequest("ids: there are %d: allowed: 1 to %d in one call", len(r.IDs), MaxIDs)
	}
	return nil
}

// redrive sends at most MaxIDs dead letters back to their groups. Ids that are not there are left out of the result.
func (s *Service) redrive(ctx context.Context, broker pubsub.Service, request IDsRequest) (RedriveResult, error) {
	if err := request.check(); err != nil {
		return RedriveResult{}, err
	}
	moved, err := broker.Redrive(ctx, request.IDs)
	if err != nil {
		return RedriveResult{}, err
	}
	result := RedriveResult{Redriven: make([]uint64, len(moved))}
	for i := range moved {
		result.Redriven[i] = moved[i].ID
	}
	if result.Unreadable, err = unreadable(ctx, broker, request.IDs, result.Redriven); err != nil {
		return RedriveResult{}, err
	}
	s.changed(ctx, "dead letters were redriven", request.Bucket, "count", len(moved))
	return result, nil
}

// unreadable returns those of ids, but for done, that are dead letters which cannot be decoded.
func unreadable(ctx context.Context, broker pubsub.Service, ids, done []uint64) (found []uint64, err error) {
	for _, id := range ids {
		if slices.Contains(done, id) {
			continue
		}
		d, err := broker.DeadLetter(ctx, id)
		switch {
		case errors.Is(err, pubsub.ErrNotFound):
		case err != nil:
			return nil, err
		case d.Event.Unreadable != "":
			found = append(found, id)
		}
	}
	return found, nil
}

// purge removes at most MaxIDs dead letters for good. Ids that are not there are not counted.
func (s *Service) purge(ctx context.Context, broker pubsub.Service, request IDsRequest) (PurgeResult, error) {
	if err := request.check(); err != nil {
		return PurgeResult{}, err
	}
	n, err := broker.Purge(ctx, request.IDs)
	if err != nil {
		return PurgeResult{}, err
	}
	s.changed(ctx, "dead letters were purged", request.Bucket, "count", n)
	return PurgeResult{Purged: n}, nil
}
