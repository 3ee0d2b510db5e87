package crash_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// The topics, and who consumes them: each group at every process.
const (
	keyedEvents = "keyed" // each publisher's events carry its name as their partition key
	plainEvents = "plain"
)

type eventGroup struct {
	topic    string
	settings []string
	// order returns what an event may not be overtaken among; "": nothing.
	order func(id string) string
}

var eventGroups = map[string]eventGroup{
	"keys":    {topic: keyedEvents, order: func(id string) string { key, _, _ := strings.Cut(id, "-"); return key }},
	"ordered": {topic: keyedEvents, settings: []string{"ordered", "true"}, order: func(string) string { return "all" }},
	"shared":  {topic: plainEvents, order: func(string) string { return "" }},
}

const (
	// eventDeliveries is after how many deliveries an event that fails is a dead letter.
	eventDeliveries = 3
	eventFailure    = "it cannot be handled now"
	// eventInterrupted is the error of a delivery whose sidecar was killed.
	eventInterrupted = "the stream ended while it was this event's turn"
	// delayedEvery is which plain events are delayed.
	delayedEvery = 11
)

// fate is what becomes of an event.
type fate int

const (
	handled fate = iota
	retried      // fails once
	dead         // fails until it is a dead letter, and stays one
	curable      // fails until it is a dead letter that is sent back
	purged       // fails until it is a dead letter that is purged
)

func fateOf(id string) fate {
	_, text, _ := strings.Cut(id, "-")
	number, _ := strconv.Atoi(text)
	switch {
	case number%50 == 7:
		return dead
	case number%50 == 24:
		return curable
	case number%50 == 36:
		return purged
	case number%5 == 3:
		return retried
	}
	return handled
}

// eventLedger is what publishers were told, and what consumers got.
type eventLedger struct {
	mu     sync.Mutex
	events map[string]publishedEvent
	// published counts them by topic.
	published map[string]int
	groups    map[string]*groupLedger
	// takenBy counts how often a dead letter was said to have been sent back or purged.
	takenBy    map[uint64]int
	deliveries int
	handled    int
	wrong      []string
}

type publishedEvent struct {
	topic     string
	notBefore time.Time
}

type groupLedger struct {
	eventGroup
	// sequences are the places in the stream at which an event was delivered.
	sequences map[string]map[uint64]bool
	// ended are the places whose event was handled, or failed for the last time.
	ended     map[uint64]bool
	handled   map[string]bool
	redriving map[string]bool
	died      map[string]bool
	// newest is the highest place that was delivered, by what the group orders by.
	newest map[string]uint64
}

func newEventLedger() *eventLedger {
	l := &eventLedger{events: map[string]publishedEvent{}, published: map[string]int{}, groups: map[string]*groupLedger{}, takenBy: map[uint64]int{}}
	for name, group := range eventGroups {
		l.groups[name] = &groupLedger{
			eventGroup: group, sequences: map[string]map[uint64]bool{}, ended: map[uint64]bool{}, handled: map[string]bool{},
			redriving: map[string]bool{}, died: map[string]bool{}, newest: map[string]uint64{},
		}
	}
	return l
}

// publishing notes an event that is published until it is acknowledged.
func (l *eventLedger) publishing(id, topic string, notBefore time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events[id] = publishedEvent{topic, notBefore}
	l.published[topic]++
}

// deliver judges a delivery to a group, and decides whether it is handled.
func (l *eventLedger) deliver(group, id string, sequence uint64, count int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliveries++
	g, event := l.groups[group], l.events[id]
	if event.topic != g.topic {
		l.finds("group %s got %q, which nobody published there", group, id)
		return true
	}
	if time.Now().Before(event.notBefore) {
		l.finds("group %s got %s before its time", group, id)
	}
	seen := g.sequences[id]
	if seen == nil {
		seen = map[uint64]bool{}
		g.sequences[id] = seen
	}
	first := !seen[sequence]
	seen[sequence] = true
	if len(seen) > 2 || len(seen) == 2 && !g.redriving[id] {
		l.finds("event %s stands at %v for group %s", id, slices.Collect(maps.Keys(seen)), group)
	}
	if key := g.order(id); key != "" {
		newest := g.newest[key]
		if first && sequence < newest {
			l.finds("group %s: %s at %d came after what stands at %d", group, id, sequence, newest)
		}
		if sequence > newest && newest > 0 && !g.ended[newest] {
			l.finds("group %s: %s at %d overtook what stands at %d", group, id, sequence, newest)
		}
		g.newest[key] = max(newest, sequence)
	}
	if count > eventDeliveries {
		l.finds("group %s got %s for the time %d", group, id, count)
	}
	switch fateOf(id) {
	case retried:
		if count == 1 {
			return false
		}
	case curable:
		if g.redriving[id] && len(seen) == 2 {
			break
		}
		fallthrough
	case dead, purged:
		if count >= eventDeliveries {
			g.ended[sequence], g.died[id] = true, true
		}
		return false
	}
	if !g.handled[id] {
		l.handled++
	}
	g.ended[sequence], g.handled[id] = true, true
	return true
}

// redriving notes, before it is done, that a dead letter is sent back.
func (l *eventLedger) redriving(group, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups[group].redriving[id] = true
}

// taken notes how many dead letters of that id a process says that it took.
func (l *eventLedger) taken(letter uint64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.takenBy[letter] += n; l.takenBy[letter] > 1 {
		l.finds("dead letter %d was taken %d times", letter, l.takenBy[letter])
	}
}

// finds notes a broken promise. It is called with the lock held.
func (l *eventLedger) finds(format string, args ...any) {
	const most = 20
	if len(l.wrong) < most {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

func (l *eventLedger) findings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.wrong)
}

func (l *eventLedger) counts() (published, handled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events), l.handled
}

// mostOwed returns how many events of a topic its slowest group has not seen.
func (l *eventLedger) mostOwed(topic string) (most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.groups {
		if g.topic == topic {
			most = max(most, l.published[topic]-len(g.sequences))
		}
	}
	return most
}

// unfinished lists what groups are still owed.
func (l *eventLedger) unfinished() (left []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, g := range l.groups {
		for id, e := range l.events {
			if e.topic != g.topic {
				continue
			}
			done := g.handled
			if f := fateOf(id); f == dead || f == purged {
				done = g.died
			}
			if !done[id] {
				left = append(left, name+" "+id)
			}
		}
	}
	return left
}

// judge says what is wrong with the dead letters at the end; "": nothing.
func (l *eventLedger) judge(letters []admin.DeadLetter) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	type place struct{ group, id string }
	there := map[place]int{}
	for _, d := range letters {
		p := place{d.Group, d.Event.ID}
		there[p]++
		failed := 0
		for _, attempt := range d.Attempts {
			switch {
			case strings.Contains(attempt.Error, eventFailure): // sidecars say more
				failed++
			case attempt.Error != eventInterrupted:
				return fmt.Sprintf("%v failed because of %q", p, attempt.Error)
			}
		}
		if d.Deliveries != eventDeliveries || failed != eventDeliveries {
			return fmt.Sprintf("%v has %d deliveries and %d failed attempts", p, d.Deliveries, failed)
		}
	}
	for name, g := range l.groups {
		for id, e := range l.events {
			want := 0
			if e.topic == g.topic && fateOf(id) == dead {
				want = 1
			}
			if n := there[place{name, id}]; n != want {
				return fmt.Sprintf("group %s has %d dead letters of %s, and %d are wanted", name, n, id, want)
			}
		}
	}
	return ""
}

// String says what has been.
func (l *eventLedger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	fates := map[fate]int{}
	for _, g := range l.groups {
		for id := range g.died {
			fates[fateOf(id)]++
		}
	}
	return fmt.Sprintf("%d events accepted, %d deliveries, %d dead letters kept, %d sent back, %d purged",
		len(l.events), l.deliveries, fates[dead], fates[curable], fates[purged])
}
