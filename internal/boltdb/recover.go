package boltdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// errNoLog refuses a file that was not closed cleanly, alone.
var errNoLog = fmt.Errorf("%w: it was not closed cleanly, and its log, which lay beside it with %q at the end of its name, is not there, or damaged", ErrFormat, logSuffix)

// findLog opens the log beside the file; nil: there is none, or it has not come to a header.
func (db *DB) findLog() (*wal, error) {
	f, err := db.openFile(db.path+logSuffix, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	l := &wal{file: f, stats: &db.counters}
	whole, err := l.readHeader()
	if !whole || err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// recoverLog puts what the log holds over the file. The file says which log that is; nil: it was closed cleanly.
func (db *DB) recoverLog(l *wal, state *logState) error {
	if err := db.rewriteMeta(); err != nil {
		if l != nil {
			err = errors.Join(err, l.file.Close())
		}
		return err
	}
	db.names, db.fills = newNames(), map[uint32]float64{}
	if state == nil {
		if err := db.dropLog(l); err != nil {
			return err
		}
		if err := db.bringUpToDate(); err != nil {
			return err
		}
		return db.renew(newOverlay())
	}
	if l == nil {
		return errNoLog
	}
	db.wal, db.cp = l, checkpoint{applied: state.applied, began: time.Now()}
	if l.id != state.id {
		return fmt.Errorf("%w: its log %s is of another file", ErrFormat, db.path+logSuffix)
	}
	return errors.Join(db.noteLog(), db.replayLog())
}

// dropLog removes the log of a file that is whole without it, if that is what a crash has left when the log was begun, or had
// just ended.
func (db *DB) dropLog(l *wal) error {
	if l != nil {
		zero, err := l.first(0)
		one, err1 := l.first(1)
		if err := errors.Join(err, err1, l.file.Close()); err != nil {
			return err
		}
		if zero+one > 0 && !db.ended(l) {
			return fmt.Errorf("%w: its log %s is of another file, or of another state of it: was an older copy put in its place? If not, the file is whole once the log is moved away", ErrFormat, db.path+logSuffix)
		}
	}
	return removeLog(db.path)
}

// ended reports whether the file says that it has done with a log.
func (db *DB) ended(l *wal) (ended bool) {
	_ = db.bolt.View(func(tx *bbolt.Tx) error {
		ended = string(formatValue(tx, keyEndedLog)) == string(l.id[:])
		return nil
	})
	return ended
}

// rewriteMeta writes both meta pages once more: if the sync of one has failed, also in a process before this one, the system
// shows one that is not on disk, where that before it still counts, whose pages are about to be overwritten. Its own pages were
// synced before it was written. Without this, TestPowerFailure fails.
func (db *DB) rewriteMeta() error {
	pages := make([]byte, 2*db.bolt.Info().PageSize)
	if _, err := db.disk.ReadAt(pages, 0); err != nil {
		return err
	}
	if _, err := db.disk.WriteAt(pages, 0); err != nil {
		return err
	}
	return db.disk.Sync()
}

// replayLog puts what the records say that the file does not hold over it. Those of the area that a checkpoint was bringing
// into the file come first, and it begins anew.
func (db *DB) replayLog() error {
	began := time.Now()
	l := db.wal
	zero, err := l.first(0)
	if err != nil {
		return err
	}
	one, err := l.first(1)
	if err != nil {
		return err
	}
	areas := []int{0, 1}
	if zero > one {
		areas = []int{1, 0}
	}
	if err := db.renew(newOverlay()); err != nil {
		return err
	}
	after := db.cp.applied
	var records, total int
	last := int64(-1)
	overlay, frozen := newOverlay(), newOverlay()
	apply := func(sequence uint64, payload []byte) error {
		if sequence != after+1 {
			return fmt.Errorf("%w: its log %s lacks what was written after record %d: was an older copy put in its place, or is the log damaged?", ErrFormat, db.path+logSuffix, after)
		}
		after = sequence
		last = l.at - padded(len(payload))
		records++
		total += len(payload)
		return replay(db.writeTx(overlay, sequence, frozen), payload)
	}
	checkpointed := after
	for _, area := range areas {
		checkpointed, frozen = after, overlay
		overlay = overlay.copy()
		if err := l.read(area, db.cp.applied, apply); err != nil {
			return fmt.Errorf("replay its log %s: %w", db.path+logSuffix, err)
		}
	}
	if after == db.cp.applied { // all of it is in the file
		l.enter(0)
		l.sequence = after
	}
	if err := l.settle(last, zero == 0, one == 0); err != nil {
		return fmt.Errorf("write to its log: %w", err)
	}
	if err := db.bringUpToDate(); err != nil {
		return err
	}
	if err := db.renew(overlay); err != nil {
		return err
	}
	if checkpointed > db.cp.applied {
		db.startCheckpoint(frozen, checkpointed)
	}
	took := time.Since(began)
	db.counters.count(func(s *Stats) { s.Recoveries++; s.RecoveryBytes += uint64(total); s.RecoveryTime += took })
	db.log.Info("the database was not closed cleanly; its log was replayed", "records", records, "bytes", total, "took", took)
	return nil
}

// recoverUncertain opens the file anew, as after a crash, where what bbolt or the system knows of it in memory may differ from
// what is on the disk, since a commit has failed. Readers wait meanwhile. Until that works, there are no checkpoints, and
// writes go on as long as the log has room.
func (db *DB) recoverUncertain() error {
	if !db.uncertain {
		return nil
	}
	if err := db.recover(); err != nil {
		return fmt.Errorf("after a failed commit: %w", err)
	}
	db.uncertain = false
	return nil
}

func (db *DB) recover() error {
	if db.openErr == nil {
		if err := errors.Join(db.revokeFailed(), db.probe()); err != nil {
			return err
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.release()
	db.openErr = db.open(db.ctx)
	return db.openErr
}

// probe makes sure that the file can be written at all: as long as it cannot, readers are better off with what there is. It
// writes where nothing is yet.
func (db *DB) probe() error {
	tx, err := db.bolt.Begin(false)
	if err != nil {
		return nil
	}
	size := tx.Size()
	if err := tx.Rollback(); err != nil {
		return err
	}
	// On a full disk there may be room in the file.
	if _, err := db.disk.WriteAt(zeros[:db.bolt.Info().PageSize], size); err != nil && !noRoom(err) {
		return err
	}
	return db.disk.Sync()
}
