package statestore

import (
	"context"
	"fmt"
)

const (
	// MaxQueryLimit is the most items of a page, and what a query that names no limit, or a larger one, gets.
	MaxQueryLimit = 1000
	// MaxPageSize bounds a page, in bytes: values, keys, ETags and content types, and PageItemOverhead for each item. It
	// leaves room for the token in a message that gRPC's clients can receive, and for the largest item there is.
	MaxPageSize = 4<<20 - 40<<10
	// PageItemOverhead is what a page reserves for the form that an item takes in an answer, in bytes.
	PageItemOverhead = 128
	// MaxSortKeys bounds the fields that a query sorts by.
	MaxSortKeys = 8
	// MaxSortValueSize is how much of a field's value sorting looks at: of a string, almost as many bytes. What has the
	// same beginning is sorted by key.
	MaxSortValueSize = 1 << 10
)

// Query asks for values. Only those that are JSON (RFC 8259) can be found, whatever their content type; the zero Query
// finds all of them.
type Query struct {
	// Filter says which values. Default: all.
	Filter Filter
	// Sort is by what they are sorted; what is the same in all of it is sorted by key, and so is everything if there is
	// no Sort.
	Sort []SortKey
	// Limit is the most items that the page may have; it may have fewer, because its size in bytes is limited too.
	// Default, and at most: MaxQueryLimit.
	Limit int
	// Token, from the page before, asks for the page after. It fits queries with the same Sort.
	Token string
}

// SortKey sorts by the field at Path. The order is null (also for what is not there), numbers, strings, objects, arrays,
// false, true; numbers go by value, strings by bytes. If the field has several values, or is an array, the smallest of
// them or of its elements counts, or the largest with Descending.
type SortKey struct {
	Path       string
	Descending bool
}

// Page is a part of a query's answer.
type Page struct {
	Items []Item
	// Token asks for what comes after Items; empty: there is nothing more. It names the last of Items and where it stood:
	// whatever is written between two pages, a value that stays as it was and where it was comes on exactly one of them.
	Token string
	// Index is the path of the index that has served the page; empty: none has, and it read all values.
	Index string
}

// Query returns the first page, or the one after Query.Token, of the values that q asks for. It reads one consistent
// snapshot that holds every write that has returned; it reads all of it unless an index helps (AddQueryIndexes), and
// holds no more in memory than one page takes. After ctx ends, it examines at most 1 MiB more of values, or ends the look
// at one part of a larger value that it was at.
//
// Errors: invalid.Error, DamagedError when a value cannot be read and the answer might lack it, ctx's and the engine's.
func (s *Store) Query(ctx context.Context, q Query) (Page, error) {
	plan, err := newQueryPlan(q)
	if err != nil {
		return Page{}, fmt.Errorf("query state: %w", err)
	}
	var page Page
	err = s.engine.View(ctx, s.clock.Now(), func(snapshot Snapshot) (err error) {
		page, err = plan.run(ctx, snapshot)
		return err
	})
	if err != nil {
		return Page{}, fmt.Errorf("query state: %w", err)
	}
	return page, nil
}
