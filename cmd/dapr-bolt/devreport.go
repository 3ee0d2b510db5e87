package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// lookInterval is how often `dapr-bolt dev` looks for what it reports.
	lookInterval = time.Second
	// maxReported bounds the failures that are remembered, so that each is said once.
	maxReported = 1000
)

// failure is what an app did not handle, and why.
type failure struct {
	bucket              admin.Bucket
	topic, group, cause string
}

// failureReport says what apps do not handle.
type failureReport struct {
	c *cli
	// since is when it began, and last the last dead letter of each bucket that was said.
	since time.Time
	last  map[admin.Bucket]uint64
	// retried are the failures of events that come again.
	retried map[failure]bool
}

// reportFailures says which events fail, and which die, until ctx ends.
func (c *cli) reportFailures(ctx context.Context) {
	r := &failureReport{c: c, since: c.clock.Now(), last: make(map[admin.Bucket]uint64), retried: make(map[failure]bool)}
	for c.wait(ctx, lookInterval) == nil {
		// What cannot be asked now is asked the next time.
		r.retries(ctx)
		r.deadLetters(ctx)
	}
}

// retries says of what apps failed at first, once for each cause: the default backOff tries for minutes before an event dies.
func (r *failureReport) retries(ctx context.Context) {
	topics, _ := admin.CallTopics.Ask(ctx, r.c.client, admin.TopicsRequest{})
	for _, t := range topics.Topics {
		if t.Retrying == 0 {
			continue
		}
		page, _ := admin.CallRetries.Ask(ctx, r.c.client, admin.RetriesRequest{Bucket: t.Bucket, Topic: t.Topic})
		for _, retry := range page.Retries {
			f := failure{t.Bucket, t.Topic, retry.Group, cause.Of(retry.LastError)}
			if f.cause == "" || r.retried[f] {
				continue
			}
			if len(r.retried) == maxReported {
				clear(r.retried)
			}
			r.retried[f] = true
			fmt.Fprintf(r.c.out, "app %s did not handle event %s of topic %s, which comes again: %s\n", f.group, retry.EventID, f.topic, f.cause)
		}
	}
}

// deadLetters says which events died: of one cause, the first, and how many more have since the last look.
func (r *failureReport) deadLetters(ctx context.Context) {
	buckets, _ := admin.CallBuckets.Ask(ctx, r.c.client, admin.Empty{})
	for _, bucket := range buckets.Buckets {
		page, _ := admin.CallDeadLetters.Ask(ctx, r.c.client, admin.ListOptions{Bucket: bucket, Since: r.since, After: r.last[bucket], Limit: admin.MaxPageSize})
		died := make(map[failure][]*admin.DeadLetter)
		var order []failure
		for i := range page.DeadLetters {
			d := &page.DeadLetters[i]
			r.last[bucket] = d.ID
			f := failureOf(d)
			if died[f] == nil {
				order = append(order, f)
			}
			died[f] = append(died[f], d)
		}
		for _, f := range order {
			d, more := died[f][0], ""
			if n := len(died[f]) - 1; n > 0 {
				more = fmt.Sprintf(", and %d more of the same", n)
			}
			fmt.Fprintf(r.c.out, "dead letter %d%s: app %s did not handle event %s of topic %s in %s: %s\n",
				d.ID, more, d.Group, d.Event.ID, d.Topic, count(len(d.Attempts), "attempt", "attempts"), f.cause)
		}
	}
}

// failureOf says what became of an event: its last error or, where it died of something else, the reason.
func failureOf(d *admin.DeadLetter) failure {
	f := failure{d.Bucket, d.Topic, d.Group, cause.Of(d.LastError)}
	if d.Reason != pubsub.ReasonMaxDeliver || f.cause == "" {
		f.cause = string(d.Reason)
	}
	return f
}

// reportHealth says so if the app's first answer at url is not that it is well, as Dapr then keeps events from it.
func (c *cli) reportHealth(ctx context.Context, url string) {
	for c.wait(ctx, lookInterval) == nil {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			continue // it does not listen yet
		}
		_ = response.Body.Close()
		if response.StatusCode >= 300 {
			fmt.Fprintf(c.out, "the app answers GET %s with %s: it gets no events until it answers 200; "+
				"name another path with --app-health-check-path, or turn the check off with an empty one\n", url, response.Status)
		}
		return
	}
}
