package admin

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// Sidecar is a component that a sidecar has initialized.
type Sidecar struct {
	Kind      sidecars.Kind `json:"kind"`
	Component string        `json:"component"`
	// App is the app's id, where it is known: a state store is not told, but for a sidecar that has a pub/sub, too.
	App string `json:"app,omitempty"`
	Bucket
	Process string    `json:"process"`
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since"`
	// Connected says that its connection is open, and Streams counts its subscriptions.
	Connected bool `json:"connected"`
	Streams   int  `json:"streams"`
}

// AttentionKind is why something needs a person.
type AttentionKind string

// The kinds.
const (
	// AttentionNotReady: the process cannot serve.
	AttentionNotReady AttentionKind = "not-ready"
	// AttentionDeadLetters: a group has dead letters.
	AttentionDeadLetters AttentionKind = "dead-letters"
	// AttentionNoInstances: a group is owed events, and nobody consumes them.
	AttentionNoInstances AttentionKind = "no-instances"
	// AttentionNearLimit: a topic has used most of its maxBytes.
	AttentionNearLimit AttentionKind = "near-limit"
)

// Attention is something that needs a person.
type Attention struct {
	Kind AttentionKind `json:"kind"`
	Bucket
	Topic string `json:"topic,omitempty"`
	Group string `json:"group,omitempty"`
	// Count of dead letters, of events owed, or of bytes used.
	Count uint64 `json:"count,omitempty"`
	// Limit is the topic's maxBytes.
	Limit uint64 `json:"limit,omitempty"`
	// Since is when the oldest event that the group is owed was published.
	Since *time.Time `json:"since,omitempty"`
	Text  string     `json:"text"`
}

// Owed is the oldest event that a group is owed.
type Owed struct {
	Bucket
	Topic string    `json:"topic"`
	Group string    `json:"group"`
	Time  time.Time `json:"time"`
}

// Overview is what to look at first.
type Overview struct {
	Info
	// Healthy says that the process serves and can write; else Problem says why not.
	Healthy     bool        `json:"healthy"`
	Problem     string      `json:"problem,omitempty"`
	Sidecars    []Sidecar   `json:"sidecars"`
	DeadLetters uint64      `json:"deadLetters"`
	Attention   []Attention `json:"attention"`
	OldestOwed  *Owed       `json:"oldestOwed,omitempty"`
	Rates       Rates       `json:"rates"`
	// Partial says that there are more topics than were looked at.
	Partial bool `json:"partial,omitempty"`
	// Missing says which buckets could not be looked into, and why.
	Missing string `json:"missing,omitempty"`
}

const (
	// overviewTopics is how many topics of each bucket an overview looks at.
	overviewTopics = 1000
	// maxAttention bounds the list of what needs a person.
	maxAttention = 100
	// nearLimit is how much of its maxBytes a topic has used that is near it.
	nearLimit = 0.8
)

// overview says how the process is, who is connected and what needs a person.
func (s *Service) overview(ctx context.Context, _ Empty) (o Overview, err error) {
	o = Overview{Sidecars: s.connected(), Attention: []Attention{}, Rates: s.rates()}
	if o.Info, err = s.info(ctx, Empty{}); err != nil {
		return o, err
	}
	o.Problem = text(s.opts.Ready(ctx))
	if o.Healthy = o.Problem == ""; !o.Healthy {
		o.needs(Attention{Kind: AttentionNotReady, Text: o.Problem})
	}
	brokers, err := s.brokers(ctx, Bucket{}, &o.Missing)
	if err != nil {
		return o, err
	}
	for _, b := range brokers {
		topics, err := b.Broker.Stats(ctx, "", "", overviewTopics+1)
		if err != nil {
			return o, err
		}
		if len(topics) > overviewTopics {
			o.Partial, topics = true, topics[:overviewTopics]
		}
		for _, t := range topics {
			o.topic(newTopicStats(Bucket{b.Database, b.Bucket}, t))
		}
	}
	return o, nil
}

func (o *Overview) needs(a Attention) {
	if len(o.Attention) == maxAttention {
		o.Partial = true
		return
	}
	o.Attention = append(o.Attention, a)
}

func (o *Overview) topic(t TopicStats) {
	o.DeadLetters += t.Dead
	if t.MaxBytes > 0 && float64(t.Bytes) >= nearLimit*float64(t.MaxBytes) {
		o.needs(Attention{
			Kind: AttentionNearLimit, Bucket: t.Bucket, Topic: t.Topic, Count: uint64(t.Bytes), Limit: uint64(t.MaxBytes),
			Text: fmt.Sprintf("topic %s takes %d of the %d bytes that its maxBytes allows", t.Topic, t.Bytes, t.MaxBytes),
		})
	}
	for _, g := range t.Groups {
		owed := g.Waiting + g.InFlight + g.Retrying
		if g.Dead > 0 {
			o.needs(Attention{
				Kind: AttentionDeadLetters, Bucket: t.Bucket, Topic: t.Topic, Group: g.Group, Count: g.Dead,
				Text: fmt.Sprintf("dead letters of group %s and topic %s: %d", g.Group, t.Topic, g.Dead),
			})
		}
		if g.Streams == 0 && owed > 0 {
			o.needs(Attention{
				Kind: AttentionNoInstances, Bucket: t.Bucket, Topic: t.Topic, Group: g.Group, Count: owed, Since: g.OldestTime,
				Text: fmt.Sprintf("events that group %s is owed of topic %s, and no instance of its app consumes: %d", g.Group, t.Topic, owed),
			})
		}
		if at := g.OldestTime; at != nil && owed > 0 && (o.OldestOwed == nil || at.Before(o.OldestOwed.Time)) {
			o.OldestOwed = &Owed{t.Bucket, t.Topic, g.Group, *at}
		}
	}
}

// connected lists what sidecars have initialized.
func (s *Service) connected() []Sidecar {
	if s.opts.Sidecars == nil {
		return []Sidecar{}
	}
	known := s.opts.Sidecars.Sidecars()
	apps := map[string]string{}
	for i := range known {
		if app := known[i].App(); app != "" && known[i].Process.Known() {
			apps[known[i].Process.String()] = app
		}
	}
	out := make([]Sidecar, len(known))
	for i := range known {
		k := &known[i]
		name := databases.DefaultPubSubBucket
		if k.Kind == sidecars.State {
			name = databases.DefaultStateBucket
		}
		bucket := Bucket{k.Property("database"), k.Property("bucket")}.or(name)
		if engine := k.Property("engine"); engine != "" && engine != "bolt" {
			bucket.Database = servers.Label(engine, cmp.Or(k.Property("prefix"), servers.DefaultPrefix), bucket.Database)
		}
		process := k.Process.String()
		out[i] = Sidecar{
			Kind: k.Kind, Component: k.Component, App: cmp.Or(k.App(), apps[process]), Bucket: bucket,
			Process: process, PID: k.Process.PID, Since: k.Since, Connected: k.Connected, Streams: k.Streams,
		}
	}
	return out
}
