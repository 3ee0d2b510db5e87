package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// buildBytes bounds the values that one step of building an index reads, beside the last of them, in bytes.
const buildBytes = 4 << 20

// indexRecord is an index.
type indexRecord struct {
	Path    string            `cbor:"1,keyasint"`
	State   layout.IndexState `cbor:"2,keyasint"`
	Expires int64             `cbor:"3,keyasint"`           // nanoseconds since 1970
	Many    bool              `cbor:"4,keyasint,omitempty"` // it has held a value with many keys
	Keys    uint64            `cbor:"5,keyasint,omitempty"` // that building it has dealt with
	Cursor  []byte            `cbor:"6,keyasint,omitempty"` // the last of them
}

func (x *indexRecord) encode(k []byte) ([]byte, error) {
	body, err := cbor.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("encode index: %w", err)
	}
	return layout.Seal(recordFormat, k, append(make([]byte, layout.SealSize), body...)), nil
}

func (x *indexRecord) decode(k, raw []byte) error {
	var body []byte
	var err error
	if isFormat1(raw) {
		body = raw[1:]
	} else {
		body, err = layout.Unseal(recordFormat, k, raw)
	}
	if err == nil {
		err = cbor.Unmarshal(body, x)
	}
	if err == nil && x.State != layout.IndexBuilding && x.State != layout.IndexComplete && x.State != layout.IndexRemoving {
		err = fmt.Errorf("state %d cannot be", x.State)
	}
	if err != nil {
		return &statestore.DamagedError{Record: fmt.Sprintf("index %x", k[1:]), Err: err}
	}
	return nil
}

// index is one index as a transaction finds and leaves it.
type index struct {
	indexRecord
	id      uint32
	field   statestore.FieldPath
	unsaved bool // it differs from what is on disk
}

// indexes returns those of the bucket's indexes that are wanted, by id. One that cannot be read is no use to anyone: it is
// there to be removed.
func (b bucket) indexes(wanted func(*index) bool) (all []*index) {
	if !b.MayHave([]byte{kindIndex}) {
		return nil
	}
	for k, v := range b.walk([]byte{kindIndex}, 1) {
		if len(k) != 1+layout.IndexIDSize {
			continue
		}
		x := &index{id: binary.BigEndian.Uint32(k[1:])}
		err := x.decode(k, v)
		if err == nil {
			x.field, err = statestore.ParseFieldPath(x.Path)
		}
		if err != nil {
			x.State = layout.IndexRemoving
		}
		if wanted(x) {
			all = append(all, x)
		}
	}
	return all
}

// kept reports whether writes must keep the index right.
func (x *index) kept() bool { return x.State != layout.IndexRemoving }

func (x *index) complete() bool { return x.State == layout.IndexComplete }

func (x *index) building() bool { return x.State == layout.IndexBuilding }

// reindex lists how indexes change when a key's value, JSON or not, becomes another one; nil: there is none.
func (c *changes) reindex(indexes []*index, key, before, after []byte) {
	if len(indexes) == 0 {
		return
	}
	before, after = statestore.OnlyJSON(before), statestore.OnlyJSON(after)
	for _, x := range indexes {
		lost, gained, many := statestore.IndexChange(&x.field, before, after)
		for _, indexKey := range lost {
			k, _ := layout.IndexEntry(x.id, indexKey, key)
			c.delete(k)
		}
		for _, indexKey := range gained {
			c.put(layout.IndexEntry(x.id, indexKey, key))
		}
		if many && !x.Many {
			x.Many, x.unsaved = true, true
		}
	}
}

// save lists the indexes that have changed.
func (c *changes) save(indexes []*index) error {
	for _, x := range indexes {
		if !x.unsaved {
			continue
		}
		k := indexRecordKey(x.id)
		raw, err := x.encode(k)
		if err != nil {
			return err
		}
		c.put(k, raw)
	}
	return nil
}

// BuildIndexes implements statestore.Engine. Its commits wait for others to ride along with.
func (e *engine) BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (statestore.IndexProgress, error) {
	var progress statestore.IndexProgress
	err := e.update(ctx, e.db.UpdateDeferred, func(b bucket) (err error) {
		progress, err = buildStep(b, paths, until, limit)
		return err
	})
	if err != nil {
		return statestore.IndexProgress{}, fmt.Errorf("build query indexes: %w", err)
	}
	return progress, nil
}

func buildStep(b bucket, paths []string, until time.Time, limit int) (progress statestore.IndexProgress, err error) {
	all := b.indexes(func(*index) bool { return true })
	id := uint32(1)
	if n := len(all); n > 0 {
		id = all[n-1].id + 1
	}
	wanted := make([]*index, 0, len(paths))
	for _, path := range paths {
		if i := slices.IndexFunc(all, func(x *index) bool { return x.kept() && x.Path == path }); i >= 0 {
			wanted = append(wanted, all[i])
			continue
		}
		x := &index{indexRecord: indexRecord{Path: path, State: layout.IndexBuilding}, id: id, unsaved: true}
		if x.field, err = statestore.ParseFieldPath(path); err != nil {
			return progress, err
		}
		wanted = append(wanted, x)
		id++
	}
	for _, x := range wanted {
		if x.Expires < statestore.InstantOf(until) {
			x.Expires, x.unsaved = statestore.InstantOf(until), true
		}
	}
	var c changes
	if i := slices.IndexFunc(wanted, (*index).building); i >= 0 {
		x := wanted[i]
		x.build(b, limit, &c)
		progress = statestore.IndexProgress{Path: x.Path, Keys: x.Keys, Complete: x.State == layout.IndexComplete}
	}
	if err := c.save(wanted); err != nil {
		return progress, err
	}
	if len(c) == 0 {
		return progress, errNothing
	}
	return progress, boltdb.Dirty(c.write(b))
}

// build moves the cursor on and lists the entries for the values that it passed. Values that cannot be read have none.
func (x *index) build(b bucket, limit int, to *changes) {
	x.unsaved = true
	size := 0
	for k, v := range b.walk(after(valueKey(x.Cursor)), 1) {
		if limit == 0 || size >= buildBytes {
			return
		}
		if r, err := decodeRecord(k, v); err == nil {
			to.reindex([]*index{x}, k[1:], nil, r.Value)
		}
		x.Cursor = k[1:]
		x.Keys++
		limit--
		size += len(v)
	}
	x.State, x.Cursor = layout.IndexComplete, nil
}

// remove lists up to limit entries of an index that has expired, and the index itself once none is left. It returns how
// many that is, and whether there are more.
func (x *index) remove(b bucket, limit int, to *changes) (removed int, more bool) {
	prefix := layout.IndexEntryPrefix(x.id)
	for k := range b.walk(prefix, len(prefix)) {
		if removed == limit {
			x.State, x.unsaved = layout.IndexRemoving, true
			return removed, true
		}
		to.delete(bytes.Clone(k))
		removed++
	}
	to.delete(indexRecordKey(x.id))
	return removed, false
}
