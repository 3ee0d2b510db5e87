package console

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// maxTopicRows bounds the rows of the page; what is beyond is found with its filter.
const maxTopicRows = 500

// topicRow is a topic with what its groups have in sum.
type topicRow struct {
	*admin.TopicStats
	Waiting uint64
	// Oldest is when the oldest event that a group is owed was published.
	Oldest time.Time
}

func newTopicRow(t *admin.TopicStats) topicRow {
	row := topicRow{TopicStats: t}
	for i := range t.Groups {
		g := &t.Groups[i]
		row.Waiting += g.Waiting
		if g.OldestTime != nil && (row.Oldest.IsZero() || g.OldestTime.Before(row.Oldest)) {
			row.Oldest = *g.OldestTime
		}
	}
	return row
}

// columns are what the list of topics can be sorted by: the largest first, but for the name.
var columns = []column{
	{"topic", "Topic", func(a, b topicRow) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.Bucket.String(), b.Bucket.String()))
	}},
	{"stored", "Stored", func(a, b topicRow) int { return cmp.Compare(b.Stored, a.Stored) }},
	{"size", "Size", func(a, b topicRow) int { return cmp.Compare(b.Bytes, a.Bytes) }},
	{"in", "In", func(a, b topicRow) int { return cmp.Compare(b.RateIn, a.RateIn) }},
	{"out", "Out", func(a, b topicRow) int { return cmp.Compare(b.RateOut, a.RateOut) }},
	{"waiting", "Waiting", func(a, b topicRow) int { return cmp.Compare(b.Waiting, a.Waiting) }},
	{"inflight", "In flight", func(a, b topicRow) int { return cmp.Compare(b.InFlight, a.InFlight) }},
	{"delayed", "Delayed", func(a, b topicRow) int { return cmp.Compare(b.Delayed, a.Delayed) }},
	{"retrying", "Retrying", func(a, b topicRow) int { return cmp.Compare(b.Retrying, a.Retrying) }},
	{"dead", "Dead letters", func(a, b topicRow) int { return cmp.Compare(b.Dead, a.Dead) }},
	{"oldest", "Oldest owed", func(a, b topicRow) int { return compareOldest(a.Oldest, b.Oldest) }},
	{"duplicates", "Duplicates dropped", func(a, b topicRow) int { return cmp.Compare(b.Duplicates, a.Duplicates) }},
}

type column struct {
	Key, Name string
	compare   func(a, b topicRow) int
}

// compareOldest puts the oldest first, and none last.
func compareOldest(a, b time.Time) int {
	if a.IsZero() != b.IsZero() {
		return b.Compare(a)
	}
	return a.Compare(b)
}

// topicsPage is what the page shows.
type topicsPage struct {
	Topics  []topicRow
	Columns []column
	Sort    string
	// Text is what the names that are shown hold.
	Text string
	// Found is how many topics were read, which are sorted; there may be more than are shown.
	Found int
	// Next is where further topics are; empty: nowhere. Further says that these are such.
	Next    string
	Further bool
	// Missing says which buckets are not among them.
	Missing string
	// Several says that they are not all in one bucket; Buckets are all.
	Several bool
	Buckets []admin.Bucket
}

// SortLink sorts by a column.
func (p topicsPage) SortLink(key string) string {
	return link("/topics", "sort", key, "text", p.Text)
}

func (c *Console) topics(r *http.Request) (*page, error) {
	after := r.Form.Get("after")
	p := topicsPage{Columns: columns, Sort: r.Form.Get("sort"), Text: r.Form.Get("text"), Further: after != ""}
	stats, err := admin.CallTopics.Do(r.Context(), c.opts.Service, admin.TopicsRequest{Text: p.Text, After: after, Limit: admin.MaxPageSize})
	if err != nil {
		return nil, err
	}
	p.Missing = stats.Missing
	for i := range stats.Topics {
		t := &stats.Topics[i]
		p.Topics = append(p.Topics, newTopicRow(t))
		p.Several = p.Several || t.Bucket != stats.Topics[0].Bucket
	}
	buckets, err := admin.CallBuckets.Do(r.Context(), c.opts.Service, admin.Empty{})
	if err != nil {
		return nil, err
	}
	p.Buckets = buckets.Buckets
	by := slices.IndexFunc(columns, func(c column) bool { return c.Key == p.Sort })
	by = max(by, 0)
	p.Sort = columns[by].Key
	slices.SortStableFunc(p.Topics, func(a, b topicRow) int {
		return cmp.Or(columns[by].compare(a, b), columns[0].compare(a, b))
	})
	if stats.Next != "" {
		p.Next = link("/topics", "sort", p.Sort, "text", p.Text, "after", stats.Next)
	}
	p.Found = len(p.Topics)
	p.Topics = p.Topics[:min(p.Found, maxTopicRows)]
	return &page{Title: "Topics", Section: sectionTopics, Live: true, template: "topics.html", Data: p}, nil
}

// What bounds the rows of the page of a topic.
const (
	maxConsumers = 100
	retriesShown = 20
	eventsShown  = 20
)

// topicPage is what the page of a topic shows.
type topicPage struct {
	topicRow
	// Consumers are the streams of its groups, at most maxConsumers of AllConsumers.
	Consumers    []admin.Consumer
	AllConsumers int
	// Retries are the next that are due.
	Retries admin.RetryPage
	// Last are the newest events that are kept.
	Last []admin.Event
}

func (c *Console) topic(r *http.Request) (*page, error) {
	bucket, topic := bucketOf(r.Form), r.Form.Get("topic")
	detail, err := admin.CallTopic.Do(r.Context(), c.opts.Service, admin.TopicRequest{Bucket: bucket, Topic: topic})
	if err != nil {
		return nil, err
	}
	p := topicPage{topicRow: newTopicRow(&detail.TopicStats), AllConsumers: len(detail.Consumers)}
	p.Consumers = detail.Consumers[:min(maxConsumers, len(detail.Consumers))]
	if p.Retrying > 0 {
		p.Retries, err = admin.CallRetries.Do(r.Context(), c.opts.Service, admin.RetriesRequest{Bucket: bucket, Topic: topic, Limit: retriesShown})
		if err != nil {
			return nil, err
		}
	}
	last, err := admin.CallEvents.Do(r.Context(), c.opts.Service, admin.EventsRequest{Bucket: bucket, Topic: topic, Limit: eventsShown})
	if err != nil {
		return nil, err
	}
	p.Last = last.Events
	return &page{Title: "Topic " + topic, Section: sectionTopics, Live: true, template: "topic.html", Data: p}, nil
}
