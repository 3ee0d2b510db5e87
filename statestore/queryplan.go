package statestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// queryPlan is a query that was checked.
type queryPlan struct {
	filter matcher
	keys   []SortKey
	paths  []FieldPath // of keys
	limit  int
	after  *position // nil: from the start
}

func newQueryPlan(q Query) (*queryPlan, error) {
	if q.Limit < 0 {
		return nil, &invalid.Error{Field: "limit", Value: fmt.Sprint(q.Limit), Allowed: fmt.Sprintf("0 (the default) to %d", MaxQueryLimit)}
	}
	if len(q.Sort) > MaxSortKeys {
		return nil, &invalid.Error{Field: "sort", Value: fmt.Sprintf("by %d fields", len(q.Sort)), Allowed: fmt.Sprintf("by at most %d fields", MaxSortKeys)}
	}
	p := &queryPlan{keys: q.Sort, limit: min(q.Limit, MaxQueryLimit)}
	if q.Limit == 0 {
		p.limit = MaxQueryLimit
	}
	var err error
	if p.filter, err = compileFilter(q.Filter); err != nil {
		return nil, err
	}
	for _, k := range q.Sort {
		path, err := ParseFieldPath(k.Path)
		if err != nil {
			return nil, fmt.Errorf("sort: %w", err)
		}
		p.paths = append(p.paths, path)
	}
	if q.Token != "" {
		if p.after, err = decodeToken(q.Token, q.Sort); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// byKey reports whether the answer is in the order of the keys.
func (p *queryPlan) byKey() bool { return len(p.keys) == 0 }

func (p *queryPlan) run(ctx context.Context, snapshot Snapshot) (Page, error) {
	c := &collector{plan: p, meter: meter{ctx: ctx}}
	// Without a sort, keys are the order, and what comes before the page need not be looked at.
	after := ""
	if p.after != nil && p.byKey() {
		after = p.after.key
	}
	index := ""
	var err error
	if lookup := chooseIndex(p.filter, snapshot.Indexes()); lookup != nil {
		index = lookup.path.text
		err = lookup.run(snapshot, after, c)
	} else {
		err = snapshot.Scan(after, func(key, value []byte) bool { return c.offer(key, value, p.byKey()) })
	}
	if err := cmp.Or(c.meter.err, err); err != nil {
		return Page{}, err
	}
	page, err := p.page(snapshot, c)
	page.Index = index
	return page, err
}

// page reads what was collected. Only now are the exact sizes known.
func (p *queryPlan) page(snapshot Snapshot, c *collector) (Page, error) {
	page := Page{Items: make([]Item, 0, len(c.best))}
	room := MaxPageSize
	for _, at := range c.best {
		room -= len(at.key) + PageItemOverhead
		item := snapshot.Get(at.key, room)
		if errors.Is(item.Err, ErrNoRoom) {
			break
		}
		if item.Err != nil {
			return Page{}, item.Err
		}
		room -= item.Size()
		page.Items = append(page.Items, item)
	}
	if !c.more && len(page.Items) == len(c.best) {
		return page, nil
	}
	var err error
	page.Token, err = encodeToken(p.keys, &c.best[len(page.Items)-1].position)
	return page, err
}

func (p *queryPlan) position(key, value []byte, m *meter) position {
	at := position{key: string(key)}
	for i := range p.paths {
		at.values = append(at.values, p.paths[i].sortValue(value, p.keys[i].Descending, m))
	}
	return at
}

// compare orders positions as the query asks.
func (p *queryPlan) compare(a, b *position) int {
	for i := range p.keys {
		order := bytes.Compare(a.values[i], b.values[i])
		if p.keys[i].Descending {
			order = -order
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(a.key, b.key)
}

// sortValue returns where the field stands in the order of JSON values.
func (p *FieldPath) sortValue(value []byte, descending bool, m *meter) []byte {
	var best, buf []byte
	consider := func(v gjson.Result) bool {
		buf = ordered(buf[:0], v, MaxSortValueSize)
		if order := bytes.Compare(buf, best); best == nil || order < 0 && !descending || order > 0 && descending {
			best = append(best[:0], buf...)
		}
		return true
	}
	p.leaves(value, m, func(leaf gjson.Result) bool {
		if leaf.IsArray() {
			return eachElement(leaf, func(_ int, e gjson.Result) bool { return consider(e) })
		}
		return consider(leaf)
	})
	if best == nil {
		consider(gjson.Result{})
	}
	return best
}

// collector keeps the items that come first of those that it is offered: no more than one page of them, by count and by
// bytes.
type collector struct {
	plan *queryPlan
	best []*candidate // in order; what comes in the reverse of it moves all of them each time, which pointers keep short
	size int          // of best, at least
	more bool         // there is something after best

	meter meter
}

type candidate struct {
	position
	size int
}

// offer takes an item that may or may not be part of the answer. With inOrder it returns false if no item after this one
// in the answer's order can matter.
func (c *collector) offer(key, value []byte, inOrder bool) (goOn bool) {
	p := c.plan
	if inOrder && c.more && c.full() && string(key) > c.last().key {
		return false
	}
	if p.after != nil && p.byKey() && string(key) <= p.after.key || !p.filter.match(value, &c.meter) {
		return c.meter.err == nil
	}
	at := candidate{position: p.position(key, value, &c.meter), size: len(value) + len(key) + PageItemOverhead}
	if p.after != nil && p.compare(&at.position, p.after) <= 0 {
		return true
	}
	beyond := c.full() && p.compare(&c.last().position, &at.position) < 0
	if beyond && c.more {
		return true
	}
	if !c.meter.examine(len(value)) {
		return false
	}
	if !IsJSON(value) {
		return true
	}
	if beyond {
		c.more = true
		return true
	}
	place, _ := slices.BinarySearchFunc(c.best, at, func(a *candidate, b candidate) int { return p.compare(&a.position, &b.position) })
	kept := at // of all that is offered, only what is kept takes memory of its own
	c.best = slices.Insert(c.best, place, &kept)
	c.size += at.size
	for len(c.best) > p.limit || len(c.best) > 1 && c.size-c.last().size >= MaxPageSize {
		c.size -= c.last().size
		c.best = slices.Delete(c.best, len(c.best)-1, len(c.best))
		c.more = true
	}
	return true
}

func (c *collector) full() bool { return len(c.best) >= c.plan.limit || c.size >= MaxPageSize }

func (c *collector) last() *candidate { return c.best[len(c.best)-1] }
