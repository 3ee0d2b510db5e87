package natsbroker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

var _ pubsub.Migrator = (*Broker)(nil)

// waitForRest refuses a bucket that a process says it works on, and waits until none sweeps it, as one does for some time after it
// was killed, or while it cannot be asked.
func (b *Broker) waitForRest(ctx context.Context) error {
	if err := b.refuseConsumed(ctx, consumers{All: true}); err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		turn, err := b.readLast(ctx, b.layout.subject("l"))
		if err != nil {
			return err
		}
		if turn == nil {
			return nil
		}
		if tries > int(4*b.opts.SweepInterval/time.Second) {
			return b.notAtRest()
		}
		if !b.pause(time.Second) || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (b *Broker) notAtRest() error {
	return invalid.New("stream", b.layout.stream, "one that no dapr-bolt works on: stop them first")
}

// Export implements pubsub.Migrator.
func (b *Broker) Export(ctx context.Context, visit func(pubsub.Record) error) error {
	if !b.copying {
		if err := b.waitForRest(ctx); err != nil {
			return err
		}
	}
	b.mu.Lock()
	topics := slices.SortedFunc(maps.Values(b.topics), func(x, y topicRecord) int { return strings.Compare(x.Topic, y.Topic) })
	patterns := slices.Collect(maps.Values(b.groups))
	b.mu.Unlock()
	for _, t := range topics {
		if err := visit(pubsub.Record{Kind: pubsub.RecordTopic, Topic: t.Topic, Limits: pubsub.TopicLimits{MaxAge: t.MaxAge}}); err != nil {
			return err
		}
	}
	for _, g := range patterns {
		if !g.Removed && pubsub.IsPattern(g.Topic) {
			if err := visit(pubsub.Record{Kind: pubsub.RecordGroup, Topic: g.Topic, Group: g.Group}); err != nil {
				return err
			}
		}
	}
	groups := map[string][]groupRecord{}
	for _, t := range topics {
		_, of, err := b.topic(t.Topic)
		if err != nil {
			return err
		}
		groups[t.Topic] = of
		for _, g := range of {
			if err := visit(pubsub.Record{Kind: pubsub.RecordGroup, Topic: t.Topic, Group: g.Group}); err != nil {
				return err
			}
		}
	}
	if err := b.exportIDs(ctx, visit); err != nil {
		return err
	}
	for _, t := range topics {
		if err := b.exportTopic(ctx, t, len(groups[t.Topic]) > 0, visit); err != nil {
			return err
		}
	}
	for _, t := range topics {
		for _, g := range groups[t.Topic] {
			for _, c := range consumersOf(t, g.Group, g.Ordered) {
				if err := b.exportOwed(ctx, c, visit); err != nil {
					return err
				}
			}
		}
	}
	for m, err := range b.messages(ctx, b.layout.subject("x", ">"), 0) {
		if err != nil {
			return err
		}
		if d, is := b.deadLetter(m.Subject, m.Sequence, m.Header, m.Data); is {
			if err := visit(pubsub.Record{
				Kind: pubsub.RecordDead, Topic: d.Event.Topic, Group: d.Group, Event: d.Event, History: d.History, Reason: d.Reason, Time: d.Time,
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Broker) exportIDs(ctx context.Context, visit func(pubsub.Record) error) error {
	for m, err := range b.messages(ctx, b.layout.subject("d", "*"), 0) {
		if err != nil {
			return err
		}
		raw, err := hex.DecodeString(b.layout.parts(m.Subject)[1])
		window, windowErr := time.ParseDuration(m.Header.Get(headerTTL))
		if err != nil || windowErr != nil || len(raw) != len(pubsub.DedupHash{}) {
			continue // an older dapr-bolt's, which ends by itself
		}
		if err := visit(pubsub.Record{Kind: pubsub.RecordID, ID: pubsub.DedupHash(raw), Window: window, Until: m.Time.Add(window)}); err != nil {
			return err
		}
	}
	return nil
}

// exportTopic shows the delayed events of a topic, and the others if no group consumes it. In a copy, what was delayed when
// it was made may be due meanwhile.
func (b *Broker) exportTopic(ctx context.Context, t topicRecord, consumed bool, visit func(pubsub.Record) error) error {
	for _, kind := range []string{"s", "e"} {
		for m, err := range b.messages(ctx, b.layout.subject(kind, hash(t.Topic), "*"), 0) {
			if err != nil {
				return err
			}
			r := pubsub.Record{Kind: pubsub.RecordKept, Topic: t.Topic, Event: eventOf(t.Topic, m.Sequence, m.Header, m.Data)}
			if kind == "s" || b.copying && !r.Event.DeliverAt.IsZero() {
				r.Kind = pubsub.RecordDelayed
			}
			if r.Kind == pubsub.RecordKept && consumed {
				if !b.copying {
					break
				}
				return fmt.Errorf("topic %q: %w", t.Topic, pubsub.ErrForeign)
			}
			if err := visit(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// exportOwed shows what a consumer has not handled, in the order of the stream.
func (b *Broker) exportOwed(ctx context.Context, c consumer, visit func(pubsub.Record) error) error {
	position, err := b.position(ctx, c)
	if err != nil {
		return err
	}
	subjects := b.subjects(c)
	if b.copying {
		subjects = subjects[1:]
	}
	for m, err := range b.merged(ctx, subjects, position.floor) {
		if err != nil {
			return err
		}
		h := position.histories[m.Sequence]
		if m.Sequence <= position.delivered && !position.pending[m.Sequence] {
			continue
		}
		if h == nil {
			given := givenHistory(m.Header)
			h = &given
		}
		if err := visit(pubsub.Record{
			Kind: pubsub.RecordOwed, Topic: c.topic, Group: c.group, Event: eventOf(c.topic, m.Sequence, m.Header, m.Data),
			History: h.History, Due: h.Due,
		}); err != nil {
			return err
		}
	}
	return nil
}

// merged are the messages of one or two subjects by sequence.
func (b *Broker) merged(ctx context.Context, subjects []string, after uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	if len(subjects) == 1 {
		return b.messages(ctx, subjects[0], after)
	}
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		first, stopFirst := iter.Pull2(b.messages(ctx, subjects[0], after))
		defer stopFirst()
		second, stopSecond := iter.Pull2(b.messages(ctx, subjects[1], after))
		defer stopSecond()
		x, xErr, xMore := first()
		y, yErr, yMore := second()
		for xMore || yMore {
			if xMore && (xErr != nil || !yMore || yErr == nil && x.Sequence < y.Sequence) {
				if !yield(x, xErr) {
					return
				}
				x, xErr, xMore = first()
				continue
			}
			if !yield(y, yErr) {
				return
			}
			y, yErr, yMore = second()
		}
	}
}

// position is what a consumer has handled: all up to the floor, and what it has delivered and is not pending.
type position struct {
	floor, delivered uint64
	pending          map[uint64]bool
	histories        map[uint64]*historyRecord
	// ended are dead letters; true: the server has not heard of that.
	ended map[uint64]bool
}

// position finds out what a consumer has handled. The servers do not tell which events are pending, but for those with a
// history, and those that they deliver again when they are asked.
func (b *Broker) position(ctx context.Context, c consumer) (position, error) {
	p := position{pending: map[uint64]bool{}, histories: map[uint64]*historyRecord{}, ended: map[uint64]bool{}}
	info, err := b.info(ctx, c)
	if err != nil || info == nil {
		return p, err
	}
	p.floor, p.delivered = info.AckFloor.Stream, info.Delivered.Stream
	if info.NumAckPending == 0 {
		p.floor = p.delivered
		return p, nil
	}
	for m, err := range b.messages(ctx, b.layout.subject("h", groupHash(c.topic, c.group), "*"), 0) {
		if err != nil {
			return p, err
		}
		var h historyRecord
		sequence, err := strconv.ParseUint(b.layout.parts(m.Subject)[2], 10, 64)
		if err != nil || json.Unmarshal(m.Data, &h) != nil || sequence <= p.floor || sequence > p.delivered {
			continue
		}
		if stored, partition, err := b.event(ctx, c.topic, sequence); err != nil || stored == nil || c.partition != allPartition && partition != c.partition {
			if err != nil {
				return p, err
			}
			continue
		}
		if h.Ended {
			p.ended[sequence] = false
			continue
		}
		p.pending[sequence], p.histories[sequence] = true, &h
	}
	return p, b.addPutBack(ctx, c, info, &p)
}

// addPutBack adds what is pending without a history: what was in flight in a process that has stopped.
func (b *Broker) addPutBack(ctx context.Context, c consumer, info *jetstream.ConsumerInfo, p *position) error {
	from, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	known := func() int {
		n := len(p.pending)
		for _, is := range p.ended {
			if is {
				n++
			}
		}
		return n
	}
	var taken []string
	defer func() {
		for _, reply := range taken {
			_ = b.nc.Publish(reply, []byte(nak(0)))
		}
		_ = b.nc.Flush()
	}()
	deadline := b.clock.Now().Add(serverAckWait + 10*time.Second)
	for known() < info.NumAckPending {
		if b.clock.Now().After(deadline) {
			return fmt.Errorf("group %q of topic %q has %d events in flight that nobody gives back: is an app still connected?", c.group, c.topic, info.NumAckPending-known())
		}
		batch, err := from.Fetch(1, jetstream.FetchMaxWait(pollFor))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			taken = append(taken, m.Reply())
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			sequence := meta.Sequence.Stream
			switch _, ended := p.ended[sequence]; {
			case ended:
				p.ended[sequence] = true
			case sequence <= p.delivered:
				p.pending[sequence] = true
			case !b.pause(retryPause): // what is pending comes first
				return pubsub.ErrClosed
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
			return err
		}
	}
	return nil
}

// BeginImport implements pubsub.Migrator.
func (b *Broker) BeginImport(ctx context.Context, from string) error {
	if err := b.waitForRest(ctx); err != nil {
		return err
	}
	foreign := fmt.Errorf("stream %s: %w", b.layout.stream, pubsub.ErrForeign)
	subject := b.layout.subject("i")
	copyOf, err := b.readLast(ctx, subject)
	if err != nil {
		return err
	}
	if b.copying = true; copyOf != nil {
		if string(copyOf.Data) != from {
			return fmt.Errorf("%w: an unfinished copy of %s", foreign, copyOf.Data)
		}
		all := b.Clear(ctx)
		for _, kind := range []string{"e", "r", "s", "d", "h", "x"} {
			all = errors.Join(all, b.purge(ctx, b.layout.subject(kind, ">"), 0))
		}
		return all
	}
	b.mu.Lock()
	empty := len(b.topics) == 0
	for _, g := range b.groups {
		empty = empty && g.Removed
	}
	b.mu.Unlock()
	for _, kind := range []string{"d", "x"} {
		n, _, err := b.count(ctx, b.layout.subject(kind, ">"), 1)
		if err != nil {
			return err
		}
		empty = empty && n == 0
	}
	if !empty {
		return foreign
	}
	return b.store(ctx, &nats.Msg{Subject: subject, Data: []byte(from), Header: nats.Header{headerExpected: {"0"}}})
}

// EndImport implements pubsub.Migrator.
func (b *Broker) EndImport(ctx context.Context) error {
	b.copying = false
	return b.purge(ctx, b.layout.subject("i"), 0)
}

// Import implements pubsub.Migrator. What a group is owed goes where redriven events are, for that group alone.
func (b *Broker) Import(ctx context.Context, records []pubsub.Record) error {
	var messages []*nats.Msg
	for i := range records {
		r := &records[i]
		switch r.Kind {
		case pubsub.RecordTopic:
			if err := b.ensureTopic(ctx, topicRecord{Topic: r.Topic, MaxAge: r.Limits.MaxAge}, true); err != nil {
				return err
			}
			continue
		case pubsub.RecordGroup:
			if err := b.addGroup(ctx, r.Topic, r.Group); err != nil {
				return err
			}
			continue
		case pubsub.RecordID:
			if left := r.Until.Sub(b.clock.Now()); left > 0 {
				messages = append(messages, b.idMessage(r.ID, left))
			}
			continue
		}
		if r.Event.PartitionKey != "" {
			if err := b.ensureTopic(ctx, topicRecord{Topic: r.Topic, Keyed: true}, false); err != nil {
				return err
			}
		}
		switch r.Kind {
		case pubsub.RecordKept:
			m := b.publishMessage(&r.Event)
			if !r.Event.DeliverAt.IsZero() { // it was due
				m = eventMessage(b.layout.subject("e", hash(r.Topic), partitionOf(r.Event.PartitionKey)), &r.Event)
			}
			messages = append(messages, m)
		case pubsub.RecordDelayed:
			messages = append(messages, b.publishMessage(&r.Event))
		case pubsub.RecordOwed:
			m := eventMessage(b.layout.subject("r", groupHash(r.Topic, r.Group), partitionOf(r.Event.PartitionKey)), &r.Event)
			m.Header[headerHistory] = []string{marshal(historyRecord{History: r.History, Due: r.Due})}
			messages = append(messages, m)
		case pubsub.RecordDead:
			m := eventMessage(b.layout.subject("x", groupHash(r.Topic, r.Group), nuid.Next()), &r.Event)
			m.Header[headerDeath] = []string{marshal(deathRecord{Group: r.Group, History: r.History, Reason: r.Reason, Time: r.Time})}
			messages = append(messages, m)
		default:
			return fmt.Errorf("a record of kind %q cannot be copied", r.Kind)
		}
	}
	if len(messages) == 0 {
		return nil
	}
	return b.store(ctx, messages...)
}

// addGroup makes a group whose first subscription decides the rest, unless a pattern of it is there.
func (b *Broker) addGroup(ctx context.Context, topic, group string) error {
	b.mu.Lock()
	_, there := b.groupsOf(topic)[group]
	b.mu.Unlock()
	if there {
		return nil
	}
	return b.update(ctx, b.layout.subject("g", groupHash(topic, group)), func([]byte) (any, error) {
		return groupRecord{Topic: topic, Group: group, Undecided: true}, nil
	})
}
