package crash_test

import (
	"fmt"
	"math"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Keys are in groups, and a call stays within one: groups can be checked each on its own, which keys cannot where there
// are transactions.
const (
	groups    = 5
	groupSize = 4
)

type condition int

const (
	always condition = iota
	ifMatch
	ifAbsent // a first-write
)

// change is a set or a delete. Every set has a value that no other has, so that a value names a version.
type change struct {
	key    int // within the group
	delete bool
	value  string
	when   condition
	// expected is the version that has etag.
	expected, etag string
}

// call is what a client asks for: to read keys, all at once, or to make changes, all or none.
type call struct {
	group   int
	reads   []int
	changes []change
}

// answer is what a client is told.
type answer struct {
	// unknown: the call was cut off, and may take effect any time later, or never.
	unknown bool
	// refused: a condition did not hold.
	refused bool
	// values are those of the keys that were read; "": there is none.
	values []string
	etags  []string
}

// state is what a group's keys hold; "": nothing.
type state [groupSize]string

// holds reports whether the conditions, all looked at before the first change, hold.
func (c call) holds(s state) bool {
	for _, change := range c.changes {
		stored := s[change.key]
		if change.when == ifMatch && change.expected != stored || change.when == ifAbsent && stored != "" {
			return false
		}
	}
	return true
}

func (c call) apply(s state) state {
	for _, change := range c.changes {
		s[change.key] = change.value // "" for a delete
	}
	return s
}

// model is one group's.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, groups)
		for _, o := range history {
			group := o.Input.(call).group
			parts[group] = append(parts[group], o)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(before, input, output any) (bool, any) {
		s, c, a := before.(state), input.(call), output.(answer)
		if c.reads != nil {
			for i, key := range c.reads {
				if a.values[i] != s[key] {
					return false, s
				}
			}
			return true, s
		}
		holds := c.holds(s)
		if !a.unknown && a.refused == holds {
			return false, s
		}
		if !holds {
			return true, s
		}
		return true, c.apply(s)
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input.(call), output.(answer)) },
}

// never is the return of a call that was cut off: it may take effect after everything else.
const never = math.MaxInt64

// versions checks that an ETag names one version of one key: what porcupine's model takes for granted.
func versions(history []porcupine.Operation) error {
	values, etags := make(map[string]string), make(map[string]string)
	for _, o := range history {
		c, a := o.Input.(call), o.Output.(answer)
		for i, key := range c.reads {
			value, etag := a.values[i], a.etags[i]
			if (value == "") != (etag == "") {
				return fmt.Errorf("key %d of group %d: value %q has the etag %q", key, c.group, value, etag)
			}
			if value == "" {
				continue
			}
			if !strings.HasPrefix(value, prefix(c.group, key)) {
				return fmt.Errorf("key %d of group %d holds %q, which was written to another", key, c.group, value)
			}
			version := fmt.Sprintf("%d/%d/%s", c.group, key, etag)
			if other, seen := etags[version]; seen && other != value {
				return fmt.Errorf("key %d of group %d: etag %s names both %q and %q", key, c.group, etag, value, other)
			}
			if other, seen := values[value]; seen && other != etag {
				return fmt.Errorf("key %d of group %d: value %q has both the etag %s and %s", key, c.group, value, etag, other)
			}
			etags[version], values[value] = value, etag
		}
	}
	return nil
}

// prefix begins the values that are written to a key.
func prefix(group, key int) string { return fmt.Sprintf("%d/%d:", group, key) }
