package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// buildBytes bounds the values that one step of building an index reads, beside the last of them, in bytes.
const buildBytes = 4 << 20

// index is one index as a transaction finds and leaves it.
type index struct {
	indexRecord
	id      uint32
	field   statestore.FieldPath
	unsaved bool // it differs from what is on disk
}

// loadIndexes returns the indexes of a cursor's namespace, by id. One that cannot be read is no use to anyone: it is there to be removed.
func loadIndexes(c boltdb.Cursor) []*index {
	var all []*index
	for k, v := c.Seek([]byte{prefixIndex}); len(k) > 0 && k[0] == prefixIndex; k, v = c.Next() {
		if len(k) != 1+indexIDSize {
			continue
		}
		x := &index{id: binary.BigEndian.Uint32(k[1:])}
		err := decode(v, &x.indexRecord)
		if err == nil {
			x.field, err = statestore.ParseFieldPath(x.Path)
		}
		if err != nil || x.State != indexBuilding && x.State != indexComplete {
			x.State = indexRemoving
		}
		all = append(all, x)
	}
	return all
}

// keptIndexes returns those that writes must keep right.
func keptIndexes(c boltdb.Cursor) []*index {
	return slices.DeleteFunc(loadIndexes(c), func(x *index) bool { return x.State == indexRemoving })
}

// reindex lists how indexes change when a key's value, JSON or not, becomes another one; nil: there is none.
func (c *changes) reindex(indexes []*index, key, before, after []byte) {
	for _, x := range indexes {
		old, present := statestore.IndexKeys(&x.field, before), statestore.IndexKeys(&x.field, after)
		for _, indexKey := range old {
			if !holdsKey(present, indexKey) {
				k, _ := indexEntry(x.id, indexKey, key)
				c.delete(k)
			}
		}
		for _, indexKey := range present {
			if !holdsKey(old, indexKey) {
				c.put(indexEntry(x.id, indexKey, key))
			}
		}
		if !x.Many && statestore.IndexManyKeys(present) {
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
		raw, err := encode(&x.indexRecord, len(x.Path)+len(x.Cursor))
		if err != nil {
			return err
		}
		c.put(indexRecordKey(x.id), raw)
	}
	return nil
}

func holdsKey(sorted [][]byte, key []byte) bool {
	_, found := slices.BinarySearchFunc(sorted, key, bytes.Compare)
	return found
}

// storedValue returns a record's value where it lies; nil if there is no record, or none that can be read.
func storedValue(raw []byte) []byte {
	if raw == nil {
		return nil
	}
	s, err := decodeRecord("", raw)
	if err != nil {
		return nil
	}
	return s.value
}

// BuildIndexes implements statestore.Engine. Its commits wait for others to ride along with.
func (e *engine) BuildIndexes(ctx context.Context, paths []string, until time.Time, limit int) (statestore.IndexProgress, error) {
	idle := false
	err := e.db.View(func(tx *boltdb.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		missing, begun := sortOut(loadIndexes(ns.Cursor()), paths)
		idle = len(missing) == 0 && !slices.ContainsFunc(begun, func(x *index) bool {
			return x.State == indexBuilding || x.ExpiresAt < instantOf(until)
		})
		return nil
	})
	if err != nil || idle {
		return statestore.IndexProgress{}, err
	}
	var progress statestore.IndexProgress
	err = e.db.UpdateLazily(ctx, func(tx *boltdb.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		progress, err = buildStep(ns, paths, until, limit)
		return err
	})
	if err != nil {
		return statestore.IndexProgress{}, fmt.Errorf("build query indexes: %w", err)
	}
	return progress, nil
}

// sortOut returns the paths without an index, and the indexes on the others.
func sortOut(all []*index, paths []string) (missing []string, begun []*index) {
	for _, path := range paths {
		i := slices.IndexFunc(all, func(x *index) bool { return x.State != indexRemoving && x.Path == path })
		if i < 0 {
			missing = append(missing, path)
		} else {
			begun = append(begun, all[i])
		}
	}
	return missing, begun
}

func buildStep(ns *boltdb.Bucket, paths []string, until time.Time, limit int) (statestore.IndexProgress, error) {
	all := loadIndexes(ns.Cursor())
	missing, begun := sortOut(all, paths)
	id := uint32(1)
	if n := len(all); n > 0 {
		id = all[n-1].id + 1
	}
	for _, path := range missing {
		x := &index{indexRecord: indexRecord{Path: path, State: indexBuilding}, id: id, unsaved: true}
		var err error
		if x.field, err = statestore.ParseFieldPath(path); err != nil {
			return statestore.IndexProgress{}, err
		}
		begun = append(begun, x)
		id++
	}
	for _, x := range begun {
		if x.ExpiresAt < instantOf(until) {
			x.ExpiresAt, x.unsaved = instantOf(until), true
		}
	}
	var c changes
	var progress statestore.IndexProgress
	if i := slices.IndexFunc(begun, func(x *index) bool { return x.State == indexBuilding }); i >= 0 {
		x := begun[i]
		x.build(ns, limit, &c)
		progress = statestore.IndexProgress{Path: x.Path, Keys: x.Keys, Complete: x.State == indexComplete}
	}
	if err := c.save(begun); err != nil {
		return statestore.IndexProgress{}, err
	}
	return progress, boltdb.Dirty(c.write(ns))
}

// build moves the cursor on and lists the entries for the values that it passed. Values that cannot be read have none.
func (x *index) build(ns *boltdb.Bucket, limit int, to *changes) {
	x.unsaved = true
	size := 0
	c := ns.Cursor()
	k, v := seekAfter(c, valueKey(nil, x.Cursor))
	var last []byte
	for ; limit > 0 && size < buildBytes && len(k) > 0 && k[0] == prefixValue; k, v = c.Next() {
		to.reindex([]*index{x}, k[1:], nil, storedValue(v))
		last = k[1:]
		x.Keys++
		limit--
		size += len(v)
	}
	if len(k) == 0 || k[0] != prefixValue {
		x.State, x.Cursor = indexComplete, nil
		return
	}
	x.Cursor = bytes.Clone(last)
}

// seekAfter finds the first key after k.
func seekAfter(c boltdb.Cursor, k []byte) ([]byte, []byte) {
	found, v := c.Seek(k)
	if bytes.Equal(found, k) {
		return c.Next()
	}
	return found, v
}

// expiredIndexes returns those that are to be removed by now.
func expiredIndexes(ns *boltdb.Bucket, now time.Time) []*index {
	return slices.DeleteFunc(loadIndexes(ns.Cursor()), func(x *index) bool {
		return x.State != indexRemoving && !expired(x.ExpiresAt, now)
	})
}

// remove lists up to limit entries of an index that has expired, and the index itself once none is left. It returns how
// many that is, and whether there are more.
func (x *index) remove(ns *boltdb.Bucket, limit int, to *changes) (removed int, more bool) {
	prefix := indexEntryPrefix(x.id)
	c := ns.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if removed == limit {
			x.State, x.unsaved = indexRemoving, true
			return removed, true
		}
		to.delete(bytes.Clone(k))
		removed++
	}
	to.delete(indexRecordKey(x.id))
	return removed, false
}
