package guarantees

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
)

// ledger is what clients know of their calls: which were acknowledged, and which may have taken effect. It is compared
// with what is found afterwards.
type ledger struct {
	mu sync.Mutex
	// values has, by key, the newest value that was acknowledged and the newest that was tried. The values of a key are
	// counted up by its only writer, who tries the next one whatever became of the last.
	values map[string]attempt
	// sets counts the calls that were acknowledged.
	sets int
	// twins are the pairs of keys that one transaction always sets to the same value.
	twins map[[2]string]bool
	// published has the events that were acknowledged, by id; false: tried, outcome unknown.
	published map[string]bool
	// delivered has the sequence numbers under which each event came, and how often.
	delivered map[string]map[string]int
}

type attempt struct{ tried, acked int }

func newLedger() *ledger {
	return &ledger{
		values:    make(map[string]attempt),
		twins:     make(map[[2]string]bool),
		published: make(map[string]bool),
		delivered: make(map[string]map[string]int),
	}
}

// trying hands out the next value for a key, or for two that are always set together.
func (l *ledger) trying(keys ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.values[keys[0]].tried + 1
	if len(keys) == 2 {
		l.twins[[2]string(keys)] = true
	}
	for _, key := range keys {
		a := l.values[key]
		a.tried = next
		l.values[key] = a
	}
	return next
}

func (l *ledger) set(value int, keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sets++
	for _, key := range keys {
		a := l.values[key]
		a.acked = value
		l.values[key] = a
	}
}

func (l *ledger) publish(acked bool, ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.published[id] = l.published[id] || acked
	}
}

func (l *ledger) deliver(id, sequence string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.delivered[id] == nil {
		l.delivered[id] = make(map[string]int)
	}
	l.delivered[id][sequence]++
}

// verdict compares the ledger with what there is.
type verdict struct {
	sets                     int // calls that were acknowledged
	keys                     int // keys with an acknowledged value
	found                    int // keys whose value is right
	lost, torn               []string
	events                   int // events that were acknowledged
	arrived                  int // of these, those that were delivered
	missing                  []string
	storedTwice, invented    []string
	deliveries, redeliveries int
}

// check compares the ledger with the values that are stored now (a key without one is absent).
func (l *ledger) check(stored map[string]string) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := verdict{sets: l.sets}
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		a := l.values[key]
		if a.acked == 0 {
			continue
		}
		v.keys++
		// A call whose answer was lost may have taken effect, so a later value is right as well.
		if n, err := strconv.Atoi(stored[key]); err != nil || n < a.acked || n > a.tried {
			v.lost = append(v.lost, fmt.Sprintf("%s: %d was acknowledged and %d tried; stored is %q", key, a.acked, a.tried, stored[key]))
			continue
		}
		v.found++
	}
	for twins := range l.twins {
		if stored[twins[0]] != stored[twins[1]] {
			v.torn = append(v.torn, fmt.Sprintf("%s is %q and %s is %q", twins[0], stored[twins[0]], twins[1], stored[twins[1]]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.published)) {
		switch {
		case !l.published[id]:
			continue
		case l.delivered[id] == nil:
			v.missing = append(v.missing, id)
		default:
			v.arrived++
		}
		v.events++
	}
	for _, id := range slices.Sorted(maps.Keys(l.delivered)) {
		sequences := l.delivered[id]
		if _, ours := l.published[id]; !ours {
			v.invented = append(v.invented, id)
		}
		if len(sequences) > 1 {
			v.storedTwice = append(v.storedTwice, fmt.Sprintf("%s under the sequence numbers %v", id, slices.Sorted(maps.Keys(sequences))))
		}
		times := 0
		for _, n := range sequences {
			times += n
		}
		v.deliveries += times
		v.redeliveries += times - 1
	}
	return v
}

// problems are the broken promises; empty: there are none.
func (v *verdict) problems() (all []string) {
	for what, list := range map[string][]string{
		"lost":                   v.lost,
		"half a transaction":     v.torn,
		"lost event":             v.missing,
		"event stored twice":     v.storedTwice,
		"event nobody published": v.invented,
	} {
		for _, item := range list {
			all = append(all, what+": "+item)
		}
	}
	slices.Sort(all)
	return all
}

func (v *verdict) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "\tacknowledged\tfound\tlost\tduplicated\t")
	_, _ = fmt.Fprintf(w, "  keys\t%d\t%d\t%d\t-\t%d sets were acknowledged\n", v.keys, v.found, len(v.lost)+len(v.torn), v.sets)
	_, _ = fmt.Fprintf(w, "  events\t%d\t%d\t%d\t%d\t%d deliveries, %d of them again after a kill\n",
		v.events, v.arrived, len(v.missing), len(v.storedTwice), v.deliveries, v.redeliveries)
	_ = w.Flush()
}

// The check that the crash test relies on must be able to fail.
func TestLedgerFindsWhatIsPlanted(t *testing.T) {
	t.Parallel()
	sound := map[string]string{"k": "3", "left": "2", "right": "2"}
	book := func() *ledger {
		l := newLedger()
		for range 3 {
			l.set(l.trying("k"), "k")
		}
		l.trying("k") // its answer was lost
		for range 2 {
			l.set(l.trying("left", "right"), "left", "right")
		}
		l.publish(false, "e1", "e2", "unsure")
		l.publish(true, "e1", "e2")
		l.deliver("e1", "1")
		l.deliver("e2", "2")
		l.deliver("e2", "2") // again, as after a crash
		return l
	}
	with := func(changed ...string) map[string]string {
		m := maps.Clone(sound)
		maps.Copy(m, pairs(changed))
		return m
	}
	for name, test := range map[string]struct {
		stored map[string]string
		plant  func(*ledger)
		want   []string
	}{
		"nothing":                        {stored: sound},
		"a call whose answer was lost":   {stored: with("k", "4")},
		"the delivery of an unsure one":  {stored: sound, plant: func(l *ledger) { l.deliver("unsure", "3") }},
		"an older value":                 {stored: with("k", "2"), want: []string{`lost: k: 3 was acknowledged and 4 tried; stored is "2"`}},
		"a value that nobody tried":      {stored: with("k", "5"), want: []string{`lost: k: 3 was acknowledged and 4 tried; stored is "5"`}},
		"a key that is gone":             {stored: with("k", ""), want: []string{`lost: k: 3 was acknowledged and 4 tried; stored is ""`}},
		"half a transaction":             {stored: with("right", "3"), plant: func(l *ledger) { l.trying("left", "right") }, want: []string{`half a transaction: left is "2" and right is "3"`}},
		"an event that never came":       {stored: sound, plant: func(l *ledger) { l.publish(true, "e3") }, want: []string{"lost event: e3"}},
		"an event that was stored twice": {stored: sound, plant: func(l *ledger) { l.deliver("e1", "4") }, want: []string{"event stored twice: e1 under the sequence numbers [1 4]"}},
		"an event out of nowhere":        {stored: sound, plant: func(l *ledger) { l.deliver("e9", "4") }, want: []string{"event nobody published: e9"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := book()
			if test.plant != nil {
				test.plant(l)
			}
			v := l.check(test.stored)
			require.Equal(t, test.want, v.problems())
		})
	}
}
