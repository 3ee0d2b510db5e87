// Package pubsub is what Dapr means by publish and subscribe: topics whose events go to every consumer group at least
// once, in order, deduplicated, retried, and set aside as dead letters when a group cannot handle them.
//
// The Broker decides who gets what and when; an Engine keeps it. What is in flight to an app instance is memory, all the
// rest is the engine's. A Subscription is one app instance's stream of a group's events, and a Delivery one event in flight
// on it, which the app acknowledges or fails. A consumer group's share of one topic is a group; it outlives its last stream
// only until everything is written down.
package pubsub

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// Options for NewBroker; the zero value is the documented default.
type Options struct {
	// Clock default: the real one.
	Clock clockwork.Clock
	// Logger default: slog.Default().
	Logger *slog.Logger
	// SweepInterval is how often what has ended is cleaned away. Default: 10s.
	SweepInterval time.Duration
	// Budget is shared with the other brokers of the process. Default: one of its own, of DefaultPendingBytes.
	Budget *Budget
	// Totals is shared with the other brokers of the process. Default: one of its own.
	Totals *Totals
	// Timings returns where the times of a group go. Default: nowhere.
	Timings func(group string) Timings
	NameLimits
}

// Broker hands the events of one namespace to the streams of its consumer groups. All methods may be called from any
// goroutine.
type Broker struct {
	engine     Engine
	clock      clockwork.Clock
	log        *slog.Logger
	names      NameLimits
	budget     *Budget
	totals     *Totals
	timings    func(group string) Timings
	maintainer *maintainer

	// mu guards what follows, the groups and their streams. It is held for no longer than it takes to change memory.
	mu     sync.Mutex
	closed bool
	// groups are those with streams, by topic and name; unfinished, those with something to write down, too.
	groups     map[string]map[string]*group
	unfinished map[*group]struct{}
	locks      groupLocks
	// streams are the open subscriptions, for topics that come up later.
	streams map[*subscription]struct{}
	// topics are those that were ever published or subscribed to.
	topics map[string]*topicState
	// groupCounts has the groups of which something was counted.
	groupCounts map[groupName]*GroupCounts
	recent      recentEvents
}

// topicState is what is remembered of a topic in memory.
type topicState struct {
	TopicCounts
	// warned says that the log has told of events without an id.
	warned bool
}

// NewBroker starts a broker on engine. The caller must Close it before the engine's file is closed.
func NewBroker(ctx context.Context, engine Engine, opts Options) (*Broker, error) {
	if opts.Timings == nil {
		opts.Timings = func(string) Timings { return Timings{} }
	}
	names, err := engine.Topics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	b := &Broker{
		engine:      engine,
		clock:       cmp.Or(opts.Clock, clockwork.NewRealClock()),
		log:         cmp.Or(opts.Logger, slog.Default()),
		names:       opts.NameLimits.WithDefaults(),
		budget:      cmp.Or(opts.Budget, NewBudget(0)),
		totals:      cmp.Or(opts.Totals, &Totals{}),
		timings:     opts.Timings,
		groups:      map[string]map[string]*group{},
		unfinished:  map[*group]struct{}{},
		locks:       groupLocks{},
		streams:     map[*subscription]struct{}{},
		topics:      map[string]*topicState{},
		groupCounts: map[groupName]*GroupCounts{},
		recent:      recentEvents{byPlace: map[eventPlace]*Event{}, watches: map[*watch]struct{}{}},
	}
	for _, name := range names {
		b.topics[name] = &topicState{}
	}
	b.maintainer = startMaintainer(b, cmp.Or(opts.SweepInterval, 10*time.Second))
	return b, nil
}

// Close implements Service.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	streams := slices.Collect(maps.Keys(b.streams))
	b.mu.Unlock()

	for _, s := range streams {
		s.Close()
	}
	b.maintainer.stop()

	b.mu.Lock()
	unfinished := slices.Collect(maps.Keys(b.unfinished))
	b.mu.Unlock()
	for _, g := range unfinished {
		select {
		case <-g.done:
		case <-ctx.Done():
			return fmt.Errorf("close broker: acknowledgements of %s for group %s are not written yet: %w", g.topic, g.group, ctx.Err())
		}
	}
	return nil
}

// Publish implements Service.
func (b *Broker) Publish(ctx context.Context, topic string, messages []Message, opts PublishOptions) []error {
	b.mu.Lock()
	closed, known := b.closed, b.topics[topic]
	b.mu.Unlock()
	if closed {
		return failAll(make([]error, len(messages)), ErrClosed)
	}
	// Without its reading of the monotonic clock, a time is what the engine would give back.
	now := b.clock.Now().Round(0)
	entries, places, outcomes := NewEntries(topic, messages, opts, now)
	if len(entries) == 0 {
		return outcomes
	}
	results, err := b.engine.Append(ctx, topic, entries, AppendOptions{TopicLimits: opts.Limits, Names: b.names, AllOrNothing: opts.AllOrNothing}, now)
	if err != nil {
		return failAll(outcomes, fmt.Errorf("publish to topic %q: %w", topic, err))
	}
	nameless, last, counts := false, uint64(0), TopicCounts{}
	b.mu.Lock()
	// A topic that was removed meanwhile gives its sequences to other events.
	removed := known != nil && b.topics[topic] != known
	for i, r := range results {
		e := &entries[i]
		e.Event.Sequence, outcomes[places[i]] = r.Sequence, r.Err
		if r.Err != nil {
			continue
		}
		if at := e.Event.DeliverAt; !at.IsZero() {
			b.maintainer.notifyDelayed(at)
		}
		if r.Duplicate {
			counts.Duplicates++
			continue
		}
		counts.Published++
		if !removed {
			b.recent.add(e.Event)
		}
		nameless = nameless || e.DedupKey == nil
		last = max(last, r.Sequence)
	}
	t := b.notifyAppended(topic, last, counts)
	warn := nameless && opts.WantsID() && !t.warned
	if warn {
		t.warned = true
	}
	b.mu.Unlock()
	if warn {
		b.log.Warn(NoIDWarning, "topic", topic)
	}
	return outcomes
}

// notifyAppended tells the groups of a topic that it has new events, up to that sequence, and adds to what is counted of
// the topic. One that is not known, and of which nothing was published, was removed, or has refused its first events: nil
// is returned. It is called with b.mu held.
func (b *Broker) notifyAppended(topic string, upTo uint64, more TopicCounts) *topicState {
	b.totals.Published.Add(more.Published)
	if more.Published == 0 && b.topics[topic] == nil {
		return nil
	}
	t := b.addTopic(topic)
	t.Published += more.Published
	t.Duplicates += more.Duplicates
	for _, g := range b.groups[topic] {
		g.notifyAppended(upTo)
	}
	return t
}

// addTopic gives a topic that came up just now to the streams whose wildcards match it, and returns what is known of it.
// It is called with b.mu held.
func (b *Broker) addTopic(topic string) *topicState {
	if t := b.topics[topic]; t != nil {
		return t
	}
	t := &topicState{}
	b.topics[topic] = t
	for s := range b.streams {
		if IsPattern(s.opts.Topic) && Matches(s.opts.Topic, topic) {
			b.attach(topic, s, DeliverAll)
		}
	}
	return t
}

// Subscribe implements Service.
func (b *Broker) Subscribe(ctx context.Context, opts SubscribeOptions) (Subscription, error) {
	if err := opts.Check(); err != nil {
		return nil, err
	}
	if IsPattern(opts.Topic) {
		name := groupName{opts.Topic, opts.Group}
		if err := b.lockGroup(ctx, name, anyway); err != nil {
			return nil, err
		}
		defer b.unlockGroup(name)
	}
	// The group is owed events from here on, whatever becomes of this stream.
	if _, err := b.engine.OpenGroup(ctx, opts.Topic, opts.Group, opts.DeliverPolicy, b.names); err != nil {
		return nil, fmt.Errorf("subscribe group %q to topic %q: %w", opts.Group, opts.Topic, err)
	}

	s := newSubscription(b, opts)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	b.streams[s] = struct{}{}
	if !IsPattern(opts.Topic) {
		b.addTopic(opts.Topic)
		b.attach(opts.Topic, s, opts.DeliverPolicy)
		return s, nil
	}
	for topic := range b.topics {
		if Matches(opts.Topic, topic) {
			b.attach(topic, s, opts.DeliverPolicy)
		}
	}
	return s, nil
}

// attach gives a stream its share of one topic. It is called with b.mu held.
func (b *Broker) attach(topic string, s *subscription, policy DeliverPolicy) {
	name := groupName{topic, s.opts.Group}
	g := b.groups[topic][name.group]
	if g == nil {
		g = startGroup(b, name, policy)
		if b.groups[topic] == nil {
			b.groups[topic] = map[string]*group{}
		}
		b.groups[topic][name.group] = g
	}
	g.add(s)
}

// detach ends a stream's part in its groups, and groups that have no other stream. It is called with b.mu held.
func (b *Broker) detach(s *subscription) {
	delete(b.streams, s)
	for _, g := range s.groups {
		g.remove(s)
		if g.state != groupEnding {
			continue
		}
		if delete(b.groups[g.topic], g.group); len(b.groups[g.topic]) == 0 {
			delete(b.groups, g.topic)
		}
	}
}

// DeadLetters implements Inspector.
func (b *Broker) DeadLetters(ctx context.Context, filter DeadLetterFilter, scan int) (found []DeadLetter, next uint64, err error) {
	if filter.Limit <= 0 {
		filter.Limit = DefaultPageSize
	}
	return b.engine.DeadLetters(ctx, filter, scan)
}

// DeadLetter implements Service.
func (b *Broker) DeadLetter(ctx context.Context, id uint64) (DeadLetter, error) {
	return b.engine.DeadLetter(ctx, id)
}

// Redrive implements Service.
func (b *Broker) Redrive(ctx context.Context, ids []uint64) ([]DeadLetter, error) {
	moved, err := b.engine.Redrive(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("redrive: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range moved {
		b.counts(groupName{d.Event.Topic, d.Group}).Redriven++
		if g := b.groups[d.Event.Topic][d.Group]; g != nil {
			g.notifyRedriven()
		}
	}
	return moved, nil
}

// Purge implements Service.
func (b *Broker) Purge(ctx context.Context, ids []uint64) (int, error) {
	n, err := b.engine.Purge(ctx, ids)
	if err != nil {
		return 0, fmt.Errorf("purge: %w", err)
	}
	return n, nil
}
