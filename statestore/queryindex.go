package statestore

import (
	"bytes"
	"slices"

	"github.com/tidwall/gjson"
)

const (
	// MaxIndexKeySize bounds an index key, in bytes.
	MaxIndexKeySize = 256
	// MaxIndexKeys bounds the index keys that one value has in one index.
	MaxIndexKeys = 64
)

// overflowKey stands in an index for values whose field has more than MaxIndexKeys keys. It begins no other index key.
var overflowKey = []byte{orderEnd}

// IndexKeys returns what an index on path holds for a value that IsJSON: in ascending order, the beginnings of the field's
// numbers, strings and booleans in the order of JSON values. No index key is the beginning of another one. An index tells
// where a value may be found; whether it is found is still for the filter to say.
func IndexKeys(path *FieldPath, value []byte) [][]byte { return indexKeys(path, value, nil) }

func indexKeys(path *FieldPath, value []byte, m *meter) (keys [][]byte) {
	overflow := false
	path.values(value, m, func(v gjson.Result) bool {
		if !indexed(v) {
			return true
		}
		key := ordered(nil, v, MaxIndexKeySize)
		at, found := slices.BinarySearchFunc(keys, key, bytes.Compare)
		if !found {
			keys = slices.Insert(keys, at, key)
		}
		overflow = len(keys) > MaxIndexKeys
		return !overflow
	})
	if overflow {
		return [][]byte{overflowKey}
	}
	return keys
}

// indexed reports whether an index has keys for v. It has none for null, so that an index is no larger than its field is
// common, and none for arrays and objects as such.
func indexed(v gjson.Result) bool { return v.Type != gjson.Null && v.Type != gjson.JSON }

// IndexChange returns the index keys that an index on path loses, and those that it gains, when a key's value becomes another
// one: JSON, or nil for none (see OnlyJSON). many says that the other one makes the index one where a value may have several keys.
func IndexChange(path *FieldPath, before, after []byte) (lost, gained [][]byte, many bool) {
	old, present := IndexKeys(path, before), IndexKeys(path, after)
	return without(old, present), without(present, old), manyKeys(present)
}

// without returns the keys that are not in others. Both are in order.
func without(keys, others [][]byte) (rest [][]byte) {
	for _, key := range keys {
		if _, found := slices.BinarySearchFunc(others, key, bytes.Compare); !found {
			rest = append(rest, key)
		}
	}
	return rest
}

// manyKeys reports whether a value with these keys makes an index one where a value may have several.
func manyKeys(keys [][]byte) bool {
	return len(keys) > 1 || len(keys) == 1 && bytes.Equal(keys[0], overflowKey)
}

// IndexRange is a range of index keys: those at or above From and at or below To, or beginning with To.
type IndexRange struct{ From, To []byte }

func (r *IndexRange) holds(key []byte) bool {
	return bytes.Compare(key, r.From) >= 0 && !r.Below(key)
}

// Below reports whether the whole range is below key.
func (r *IndexRange) Below(key []byte) bool {
	return bytes.Compare(key[:min(len(key), len(r.To))], r.To) > 0
}

// Single reports whether the range holds one index key only.
func (r *IndexRange) Single() bool { return bytes.Equal(r.From, r.To) }

// lookup finds what a filter can find by an index.
type lookup struct {
	path   FieldPath
	ranges []IndexRange // in order, none overlapping another
	rank   int          // the less, the fewer values it is likely to find
}

// Ranks of a lookup.
const (
	rankEqual = iota
	rankIn
	rankRange
	rankHalfRange
)

// chooseIndex returns nil if no index helps. indexes says of each path whether a value may have several keys there.
func chooseIndex(filter matcher, indexes map[string]bool) *lookup {
	var best *lookup
	halves := map[string]*lookup{}
	for _, l := range lookups(filter) {
		many, ok := indexes[l.path.text]
		if !ok {
			continue
		}
		// Two bounds make a range only if it must be one value that keeps to both.
		if half := halves[l.path.text]; l.rank == rankHalfRange && half != nil {
			a, b := half.ranges[0], l.ranges[0]
			l.ranges[0] = IndexRange{From: slices.MaxFunc([][]byte{a.From, b.From}, bytes.Compare), To: smaller(a.To, b.To)}
			l.rank = rankRange
		}
		if l.rank >= rankRange && !many {
			halves[l.path.text] = &lookup{path: l.path, ranges: slices.Clone(l.ranges), rank: rankHalfRange}
		}
		if best == nil || l.rank <= best.rank {
			best = l
		}
	}
	if best != nil && indexes[best.path.text] {
		best.ranges = slices.Insert(best.ranges, 0, IndexRange{From: overflowKey, To: overflowKey})
	}
	return best
}

// smaller takes ends of ranges, which hold what begins with them.
func smaller(a, b []byte) []byte {
	switch {
	case bytes.HasPrefix(a, b):
		return a
	case bytes.HasPrefix(b, a):
		return b
	case bytes.Compare(a, b) < 0:
		return a
	default:
		return b
	}
}

// lookups lists what a filter asks of single fields, each of which everything that it finds complies with.
func lookups(filter matcher) (all []*lookup) {
	switch m := filter.(type) {
	case *field:
		if l := m.lookup(); l != nil && !m.not {
			return []*lookup{l}
		}
	case *group:
		for _, part := range m.parts {
			if m.all {
				all = append(all, lookups(part)...)
			}
		}
	}
	return all
}

func (m *field) lookup() *lookup {
	switch test := m.test.(type) {
	case *equals:
		return exactly(m.path, rankEqual, test.want)
	case *oneOf:
		return exactly(m.path, rankIn, test.wants...)
	case *bound:
		key := ordered(nil, test.want, MaxIndexKeySize)
		r := IndexRange{From: key, To: key[:1]} // the largest value of a type begins with the type's tag
		if test.op == OpLess || test.op == OpLessOrEqual {
			r = IndexRange{From: key[:1], To: key}
		}
		return &lookup{path: m.path, ranges: []IndexRange{r}, rank: rankHalfRange}
	}
	return nil
}

// exactly returns nil if an index does not have all of what is wanted.
func exactly(path FieldPath, rank int, wants ...gjson.Result) *lookup {
	l := &lookup{path: path, rank: rank}
	for _, want := range wants {
		if !indexed(want) {
			return nil
		}
		key := ordered(nil, want, MaxIndexKeySize)
		l.ranges = append(l.ranges, IndexRange{key, key})
	}
	slices.SortFunc(l.ranges, func(a, b IndexRange) int { return bytes.Compare(a.From, b.From) })
	l.ranges = slices.CompactFunc(l.ranges, func(a, b IndexRange) bool { return bytes.Equal(a.From, b.From) })
	return l
}

// run offers the collector each value that the index has in the ranges, once.
func (l *lookup) run(snapshot Snapshot, after string, c *collector) error {
	for _, r := range l.ranges {
		// The keys under one index key are in order.
		inOrder := r.Single() && c.plan.byKey()
		once := r.Single() && len(l.ranges) == 1
		err := snapshot.Lookup(l.path.text, r, after, func(indexKey, key, value []byte) bool {
			if !once && !bytes.Equal(indexKey, l.first(value, &c.meter)) {
				return true
			}
			return c.offer(key, value, inOrder)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// first returns the first of a value's index keys in the ranges: it is there that the value counts.
func (l *lookup) first(value []byte, m *meter) []byte {
	for _, key := range indexKeys(&l.path, value, m) {
		for i := range l.ranges {
			if l.ranges[i].holds(key) {
				return key
			}
		}
	}
	return nil
}
