package boltengine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// buildBytes bounds the values that one step of building an index reads, beside the last of them, in bytes.
const buildBytes = 4 << 20

// index is one index as a transaction finds and leaves it.
type index struct {
	indexRecord
	id    uint32
	field statestore.FieldPath
}

// loadIndexes returns the indexes of a cursor's namespace, by id. One that cannot be read is no use to anyone: it is there to be removed.
func loadIndexes(c *bbolt.Cursor) []*index {
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
func keptIndexes(c *bbolt.Cursor) []*index {
	return slices.DeleteFunc(loadIndexes(c), func(x *index) bool { return x.State == indexRemoving })
}

func (x *index) save(ns *bbolt.Bucket) error {
	raw, err := encode(&x.indexRecord, len(x.Path)+len(x.Cursor))
	if err != nil {
		return err
	}
	return ns.Put(indexRecordKey(x.id), raw)
}

// entryChange is an entry to add to an index or to take out of it.
type entryChange struct {
	index *index
	k, v  []byte // v nil: take it out
	many  bool   // the value has many index keys
}

// replaced lists how indexes change when a key's value, JSON or not, becomes another one; nil: there is none. What it
// returns does not share bytes with them.
func replaced(indexes []*index, key, before, after []byte) []entryChange {
	var changes []entryChange
	for _, x := range indexes {
		old, present := statestore.IndexKeys(&x.field, before), statestore.IndexKeys(&x.field, after)
		for _, indexKey := range old {
			if !holdsKey(present, indexKey) {
				k, _ := indexEntry(x.id, indexKey, key)
				changes = append(changes, entryChange{index: x, k: k})
			}
		}
		many := statestore.IndexManyKeys(present)
		for _, indexKey := range present {
			if !holdsKey(old, indexKey) {
				k, v := indexEntry(x.id, indexKey, key)
				changes = append(changes, entryChange{index: x, k: k, v: v, many: many})
			}
		}
	}
	return changes
}

func holdsKey(sorted [][]byte, key []byte) bool {
	_, found := slices.BinarySearchFunc(sorted, key, bytes.Compare)
	return found
}

func (c *entryChange) write(ns *bbolt.Bucket) error {
	if c.v == nil {
		return ns.Delete(c.k)
	}
	if c.many && !c.index.Many {
		c.index.Many = true
		if err := c.index.save(ns); err != nil {
			return err
		}
	}
	return ns.Put(c.k, c.v)
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
	err := e.db.View(func(tx *bbolt.Tx) error {
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
	err = e.db.UpdateLazily(ctx, func(tx *bbolt.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		progress, err = buildStep(ns, paths, until, limit)
		return boltdb.Dirty(err)
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

func buildStep(ns *bbolt.Bucket, paths []string, until time.Time, limit int) (statestore.IndexProgress, error) {
	all := loadIndexes(ns.Cursor())
	missing, begun := sortOut(all, paths)
	id := uint32(1)
	if n := len(all); n > 0 {
		id = all[n-1].id + 1
	}
	for _, path := range missing {
		x := &index{indexRecord: indexRecord{Path: path, State: indexBuilding}, id: id}
		var err error
		if x.field, err = statestore.ParseFieldPath(path); err != nil {
			return statestore.IndexProgress{}, err
		}
		begun = append(begun, x)
		id++
	}
	var building *index
	var changes []entryChange
	for _, x := range begun {
		if x.State == indexBuilding {
			building = x
			changes = x.take(ns, limit)
			break
		}
	}
	// All reads came before the first write: bbolt's bytes do not outlive it.
	for _, x := range begun {
		if x.ExpiresAt < instantOf(until) || x == building {
			x.ExpiresAt = max(x.ExpiresAt, instantOf(until))
			if err := x.save(ns); err != nil {
				return statestore.IndexProgress{}, err
			}
		}
	}
	for i := range changes {
		if err := changes[i].write(ns); err != nil {
			return statestore.IndexProgress{}, err
		}
	}
	if building == nil {
		return statestore.IndexProgress{}, nil
	}
	return statestore.IndexProgress{Path: building.Path, Keys: building.Keys, Complete: building.State == indexComplete}, nil
}

// take moves the cursor on and returns the entries for the values that it passed. Values that cannot be read have none.
func (x *index) take(ns *bbolt.Bucket, limit int) []entryChange {
	var changes []entryChange
	one := []*index{x}
	size := 0
	c := ns.Cursor()
	k, v := seekAfter(c, valueKey(nil, string(x.Cursor)))
	var last []byte
	for ; limit > 0 && size < buildBytes && len(k) > 0 && k[0] == prefixValue; k, v = c.Next() {
		changes = append(changes, replaced(one, k[1:], nil, storedValue(v))...)
		last = k[1:]
		x.Keys++
		limit--
		size += len(v)
	}
	if len(k) == 0 || k[0] != prefixValue {
		x.State, x.Cursor = indexComplete, nil
		return changes
	}
	x.Cursor = bytes.Clone(last)
	return changes
}

// seekAfter finds the first key after k.
func seekAfter(c *bbolt.Cursor, k []byte) ([]byte, []byte) {
	found, v := c.Seek(k)
	if bytes.Equal(found, k) {
		return c.Next()
	}
	return found, v
}

// endedIndexes returns those that are to be removed by now.
func endedIndexes(ns *bbolt.Bucket, now time.Time) []*index {
	return slices.DeleteFunc(loadIndexes(ns.Cursor()), func(x *index) bool {
		return x.State != indexRemoving && statestore.Live(instantTime(x.ExpiresAt), now)
	})
}

// remove takes up to limit entries out of an index that has ended, and the index itself once none is left. It returns how
// many of them there were.
func (x *index) remove(ns *bbolt.Bucket, limit int) (int, error) {
	prefix := indexEntryPrefix(x.id)
	var doomed [][]byte
	c := ns.Cursor()
	k, _ := c.Seek(prefix)
	for ; len(doomed) < limit && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		doomed = append(doomed, bytes.Clone(k))
	}
	if bytes.HasPrefix(k, prefix) {
		x.State = indexRemoving
		if err := x.save(ns); err != nil {
			return 0, err
		}
	} else {
		doomed = append(doomed, indexRecordKey(x.id))
	}
	var errs []error
	for _, k := range doomed {
		errs = append(errs, ns.Delete(k))
	}
	return min(len(doomed), limit), errors.Join(errs...)
}
