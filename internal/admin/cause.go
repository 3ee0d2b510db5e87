package admin

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// DeadLetterGroups are dead letters by what they died of.
type DeadLetterGroups struct {
	Groups []DeadLetterGroup `json:"groups"`
	// Next is what to continue after, with counts to add up; zero: these are all.
	Next uint64 `json:"next,omitempty"`
}

// DeadLetterGroup are dead letters of a group and a topic with one reason and one cause.
type DeadLetterGroup struct {
	Bucket
	Topic  string        `json:"topic"`
	Group  string        `json:"group"`
	Reason pubsub.Reason `json:"reason"`
	// Cause is the error without what differs from event to event, or the reason of those that have none; ListOptions.Cause
	// selects them by it.
	Cause string `json:"cause"`
	Count int    `json:"count"`
	// First and Last are ids, and LastError is that of the last.
	First     uint64    `json:"first"`
	Last      uint64    `json:"last"`
	Oldest    time.Time `json:"oldest"`
	Newest    time.Time `json:"newest"`
	LastError string    `json:"lastError"`
}

// varying are parts of an error that differ from event to event: ids, numbers, times.
var varying = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]*\d[0-9a-f]*\b|\d+`)

// maxCause bounds a cause, in bytes.
const maxCause = 200

// causeOf returns, in one line, what the error of a dead letter has in common with those of others. Of one without an error,
// it is the reason.
func causeOf(d *pubsub.DeadLetter) string {
	if d.Event.Unreadable != "" {
		return string(d.Reason)
	}
	text := varying.ReplaceAllString(cause.Of(d.LastError()), "#")
	// A form's field would lose control characters.
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(text) > maxCause {
		text = text[:maxCause]
	}
	return cmp.Or(strings.ToValidUTF8(text, ""), string(d.Reason))
}

// deadLetterGroups groups the dead letters that the options select by topic, group, reason and cause, the largest group first.
// It looks at some thousand at a time.
func (s *Service) deadLetterGroups(ctx context.Context, broker pubsub.Service, opts ListOptions) (DeadLetterGroups, error) {
	answer := DeadLetterGroups{Groups: []DeadLetterGroup{}}
	type key struct {
		topic, group, cause string
		reason              pubsub.Reason
	}
	at := map[key]int{}
	var err error
	answer.Next, err = eachDeadLetter(ctx, broker, opts, func(d *pubsub.DeadLetter) bool {
		k := key{d.Event.Topic, d.Group, causeOf(d), d.Reason}
		n, ok := at[k]
		if !ok {
			n = len(answer.Groups)
			at[k] = n
			answer.Groups = append(answer.Groups, DeadLetterGroup{
				Bucket: opts.Bucket, Topic: k.topic, Group: k.group, Reason: k.reason, Cause: k.cause, First: d.ID, Oldest: d.Time,
			})
		}
		g := &answer.Groups[n]
		g.Count++
		g.Last, g.Newest, g.LastError = d.ID, d.Time, d.LastError()
		return true
	})
	slices.SortStableFunc(answer.Groups, func(a, b DeadLetterGroup) int { return b.Count - a.Count })
	return answer, err
}
