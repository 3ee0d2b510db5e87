package boltdb

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

const (
	// areaSize is how long an area of the log is. A checkpoint begins after checkpointBytes of records, or when what they say
	// takes checkpointMemory, in bytes, as soon as the last one is on disk.
	areaSize         = 40 << 20
	checkpointBytes  = 32 << 20
	checkpointMemory = 16 << 20
	// maxOverlay is how much memory what is written while a checkpoint is under way may take, in bytes: then, writes wait for it.
	maxOverlay = 24 << 20
	// checkpointStep is about how many bytes of changes one commit brings into the file: it bounds the memory that a checkpoint
	// takes.
	checkpointStep = 4 << 20
	// tightStep is checkpointStep where the disk has no room: each commit then uses what the ones before it have freed.
	tightStep = 8 << 10
	// checkpointEvery is how long after the last one a checkpoint is made if there is something behind that in the log, in
	// up to twice the time while nothing is written. A page that is written again and again is written to the disk once for each.
	checkpointEvery = 30 * time.Second
)

// checkpoint is what the writer knows of them.
type checkpoint struct {
	// applied is the sequence of the last record that the file holds.
	applied uint64
	// done hears how the checkpoint ended that is under way; nil: none is.
	done chan error
	// frozen is what it, or one that has failed, brings into the file, which is everything up to a record.
	frozen *overlay
	upTo   uint64
	began  time.Time
	// resting: the last one has failed. It is tried again when it must be, or after a while.
	resting bool
}

// startLog begins a log beside a file that is whole without one. From then on the file cannot do without its log, and says
// so.
func (db *DB) startLog(areaSize int64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin the log %s: %w", db.path+logSuffix, err)
		}
	}()
	f, err := db.openFile(db.path+logSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	l := &wal{file: f, areaSize: areaSize, stats: &db.counters}
	_, err = rand.Read(l.id[:])
	if err := errors.Join(err, l.writeHeader(), durable.SyncDir(filepath.Dir(db.path))); err != nil {
		return errors.Join(err, f.Close())
	}
	db.wal, db.cp = l, checkpoint{began: time.Now()}
	if err := db.noteLog(); err != nil {
		return errors.Join(err, db.leaveLog())
	}
	if err := db.commit(func(tx *bbolt.Tx) error { return putLogState(tx, l.id, 0) }); err != nil {
		return errors.Join(err, db.leaveLog())
	}
	return db.renew(newOverlay())
}

// endLog makes the file whole without its log, and removes that.
func (db *DB) endLog() error {
	if err := db.checkpointNow(); err != nil || db.wal == nil {
		return err
	}
	id := db.wal.id
	if err := db.commit(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFormat)
		return errors.Join(b.Delete(keyLog), b.Put(keyEndedLog, id[:]))
	}); err != nil {
		return errors.Join(err, db.leaveLog())
	}
	db.openedLog.Store(nil)
	err := errors.Join(db.wal.file.Close(), removeLog(db.path))
	db.wal = nil
	return errors.Join(err, db.renew(newOverlay()))
}

// leaveLog is for when nobody knows whether the file says that it has this log: nothing may be written to that.
func (db *DB) leaveLog() error {
	db.uncertain = true
	db.openedLog.Store(nil)
	err := db.wal.file.Close()
	db.wal = nil
	return err
}

// noteLog lets Ready see whether the log stays where it is.
func (db *DB) noteLog() error {
	info, err := os.Stat(db.path + logSuffix)
	if err == nil {
		db.openedLog.Store(&info)
	}
	return err
}

// removeLog removes the log of the file at path, if there is one.
func removeLog(path string) error {
	err := os.Remove(path + logSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// due reports whether it is time for a checkpoint.
func (db *DB) due() bool {
	cp := &db.cp
	return db.wal != nil && cp.done == nil && !cp.resting &&
		(db.wal.used() >= db.opts.checkpointBytes || db.overlay.Load().bytes >= checkpointMemory ||
			db.wal.sequence > cp.applied && time.Since(cp.began) >= db.opts.checkpointEvery)
}

// beginCheckpoint brings what was written into the file, in the background, and lets the other area of the log take what is
// written meanwhile: that which the checkpoint needs again after a crash is not overwritten before its end.
func (db *DB) beginCheckpoint() error {
	err := db.revokeFailed() // which knows this area alone
	if err == nil {
		err = db.recoverUncertain()
	}
	if err != nil {
		db.cp.resting = true
		return err
	}
	if err := db.finishCheckpoint(); err != nil { // which a recovery may have begun
		return err
	}
	if db.wal == nil || db.wal.sequence == db.cp.applied {
		return nil
	}
	db.startCheckpoint(db.overlay.Load(), db.wal.sequence)
	db.wal.enter(1 - db.wal.area)
	return nil
}

// startCheckpoint lets a checkpoint run in the background, but where the disk has no room for all the pages that it changes, or
// the mapping none for a longer file: there it runs at once, and the writer does not read the file as it was.
func (db *DB) startCheckpoint(o *overlay, upTo uint64) {
	done := make(chan error, 1)
	db.cp.done, db.cp.frozen, db.cp.upTo, db.cp.began, db.cp.resting = done, o, upTo, time.Now(), true
	fills := db.fills
	db.fills = map[uint32]float64{}
	if !db.tight && db.fileSize+db.checkpointPages(o) < db.mapped {
		go func() { done <- db.apply(o, upTo, fills, db.opts.checkpointStep) }()
		return
	}
	err := db.base.Rollback()
	if err == nil {
		err = db.apply(o, upTo, fills, min(tightStep, db.opts.checkpointStep))
	}
	db.base, db.stored = nil, nil
	done <- errors.Join(err, db.readBase())
}

// finishCheckpoint waits for the checkpoint that is under way, if there is one.
func (db *DB) finishCheckpoint() error {
	if db.cp.done == nil {
		return nil
	}
	return db.checkpointDone(<-db.cp.done)
}

// checkpointDone ends a checkpoint. What it has brought into the file need not lie over it any more.
func (db *DB) checkpointDone(err error) error {
	db.cp.done = nil
	if err == nil {
		err = db.renew(db.overlay.Load().after(db.cp.upTo))
	}
	db.tight = noRoom(err)
	if err != nil {
		db.uncertain = true
		return db.failedWith(&failure{err: fmt.Errorf("checkpoint: %w", err), checkpoint: true})
	}
	db.cp.applied, db.cp.frozen, db.cp.resting = db.cp.upTo, nil, false
	took := time.Since(db.cp.began)
	db.counters.count(func(s *Stats) { s.Checkpoints++; s.CheckpointTime += took })
	return nil
}

// checkpointNow waits until the file holds everything. It opens one that is uncertain anew.
func (db *DB) checkpointNow() error {
	if err := db.beginCheckpoint(); err != nil {
		return err
	}
	return db.finishCheckpoint()
}

// apply brings what lies over the file into it. The last commit says which records need not be read any more, so that a power
// failure before it is none; it changes nothing else, so that bbolt may use again what those before it have freed, although
// somebody reads the file as it is now. Whoever reads meanwhile finds the same, as all of it still lies over the file.
func (db *DB) apply(o *overlay, upTo uint64, fills map[uint32]float64, step int64) error {
	id := db.wal.id
	if err := o.apply(db.names, fills, step, db.commit); err != nil {
		return err
	}
	return db.commit(func(tx *bbolt.Tx) error { return putLogState(tx, id, upTo) })
}

// apply brings o into a file, in the order of its keys, in commits of about step bytes.
func (o *overlay) apply(names *names, fills map[uint32]float64, step int64, commit func(func(tx *bbolt.Tx) error) error) error {
	changes := o.tree.Iter()
	for more := changes.First(); more; {
		if err := commit(func(tx *bbolt.Tx) error {
			a := applier{tx: tx, names: names, fills: fills, buckets: map[uint32]*bbolt.Bucket{}}
			for size := int64(0); more && size < step; more = changes.Next() {
				c := changes.Item()
				size += c.size()
				if err := a.apply(c); err != nil {
					return fmt.Errorf("%w: %w", ErrDamaged, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// applier brings changes into the file.
type applier struct {
	tx      *bbolt.Tx
	names   *names
	fills   map[uint32]float64
	buckets map[uint32]*bbolt.Bucket
}

func (a *applier) apply(c *change) error {
	if c.bucket == 0 {
		_, err := a.tx.CreateBucketIfNotExists(c.key)
		return err
	}
	b := a.bucket(c.bucket)
	switch c.what {
	case changeCreate:
		_, err := b.CreateBucketIfNotExists(c.key)
		return err
	case changeDelete:
		return b.Delete(c.key)
	case changeCounter:
		return b.SetSequence(binary.BigEndian.Uint64(c.value))
	default:
		return b.Put(c.key, c.value)
	}
}

// bucket returns the bucket of that number, which is there: it comes behind that which it is in.
func (a *applier) bucket(number uint32) *bbolt.Bucket {
	b := a.buckets[number]
	if b != nil {
		return b
	}
	name := a.names.at(number)
	if name.parent == 0 {
		b = a.tx.Bucket([]byte(name.name))
	} else {
		b = a.bucket(name.parent).Bucket([]byte(name.name))
	}
	if fill, any := a.fills[number]; any {
		b.FillPercent = fill
	}
	a.buckets[number] = b
	return b
}

// commit changes the file itself. If it fails, the file is uncertain: what bbolt and the system know of it in memory may
// differ from what is on the disk.
func (db *DB) commit(fn func(tx *bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		// A damaged page is a panic to bbolt, or a fault.
		if p := recover(); p != nil {
			err = db.panicked("in a commit", p)
		}
		if err != nil {
			err = fmt.Errorf("commit: %w", err)
		}
	}()
	return db.bolt.Update(fn)
}

// renew lets readers, and the writer, see the file as it is now, and what lies over it.
func (db *DB) renew(o *overlay) error {
	if db.base != nil {
		if err := db.base.Rollback(); err != nil {
			return err
		}
		db.base = nil
	}
	if err := db.readBase(); err != nil {
		return err
	}
	// With this, bbolt knows which pages nobody reads any more; see reserve.
	free, err := db.bolt.Begin(true)
	if err == nil {
		err = free.Rollback()
	}
	if err != nil {
		return err
	}
	db.show.Lock()
	defer db.show.Unlock()
	db.overlay.Store(o)
	return nil
}

// readBase lets the writer see the file as it is now.
func (db *DB) readBase() error {
	base, err := db.bolt.Begin(false)
	if err == nil {
		db.base, db.stored, db.fileSize = base, map[uint32]*bbolt.Cursor{}, base.Size()
	}
	return err
}

// logState says which log belongs to the file, and up to which of its records the file holds everything.
type logState struct {
	id      [logIDSize]byte
	applied uint64
}

func putLogState(tx *bbolt.Tx, id [logIDSize]byte, applied uint64) error {
	return tx.Bucket(bucketFormat).Put(keyLog, binary.BigEndian.AppendUint64(bytes.Clone(id[:]), applied))
}

// readLogState returns nil for a file that was closed cleanly.
func readLogState(tx *bbolt.Tx) (*logState, error) {
	raw := formatValue(tx, keyLog)
	if raw == nil {
		return nil, nil
	}
	if len(raw) != logIDSize+8 {
		return nil, fmt.Errorf("%w: the name of its log takes %d bytes, want %d", ErrFormat, len(raw), logIDSize+8)
	}
	s := &logState{applied: binary.BigEndian.Uint64(raw[logIDSize:])}
	copy(s.id[:], raw)
	return s, nil
}
