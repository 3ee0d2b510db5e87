package boltdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"
)

// replayBytes bounds the records that one transaction replays, in bytes.
const replayBytes = 8 << 20

// findLog opens the log of a file that was not closed cleanly, puts the file back to the checkpoint that the log belongs to,
// and returns the log's header; nil: there is none, as where the log was only just made. The file is locked, and bbolt has
// not seen it yet.
func (db *DB) findLog() (*header, error) {
	path := db.path + logSuffix
	f, err := db.openFile(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	db.wal = db.newLog(f)
	h, err := db.wal.newest()
	if h == nil || err != nil {
		db.wal = nil
		return nil, errors.Join(err, f.Close())
	}
	// Rule 7: if its sync has failed, the system shows a header that is not on disk, where the one before it still counts,
	// whose pages and records are about to be overwritten. Without this, TestPowerFailure fails.
	if err := db.wal.putHeader(h, db.wal.slot); err != nil {
		return nil, fmt.Errorf("write to its log: %w", err)
	}
	return h, db.restore(h)
}

// restore makes the checkpoint count that h is of. Both meta pages are written (rule 3): whichever is there may be of a
// later transaction, whose pages are not. The other one gets the same with a lower transaction number; bbolt refuses
// zeros. Without it, TestPowerFailure fails. That need not be synced: until there is another header, every recovery begins here.
func (db *DB) restore(h *header) error {
	pageSize := int64(h.pageSize)
	at := binary.NativeEndian.Uint64(h.meta[pageHeader+metaTransaction:])
	if m, _, whole := readMeta(db.disk, int64(at%2)*pageSize); whole && m.transaction < at {
		return fmt.Errorf("%w: its log %s is of a later state of it: was an older copy put in its place?", ErrFormat, db.path+logSuffix)
	}
	root := make([]byte, pageSize)
	_, err := db.disk.ReadAt(root, int64(binary.NativeEndian.Uint64(h.meta[pageHeader+metaRoot:]))*pageSize)
	if err != nil && err != io.EOF {
		return err
	}
	if crc32.Checksum(root, castagnoli) != h.rootSum {
		return fmt.Errorf("%w: its log %s is of another file, or one of them is damaged", ErrFormat, db.path+logSuffix)
	}
	if err := db.verifyCheckpoint(h); err != nil {
		return fmt.Errorf("%w: or its log %s is left over from before a clean close: then the file is whole once that is moved away", err, db.path+logSuffix)
	}
	for back := range uint64(2) {
		page := make([]byte, pageSize)
		copy(page, h.meta[:])
		transaction := binary.NativeEndian.Uint64(page[pageHeader+metaTransaction:]) - back
		slot := transaction % 2
		binary.NativeEndian.PutUint64(page, slot)
		binary.NativeEndian.PutUint64(page[pageHeader+metaTransaction:], transaction)
		sum := fnv.New64a()
		_, _ = sum.Write(page[pageHeader : pageHeader+metaChecksum])
		binary.NativeEndian.PutUint64(page[pageHeader+metaChecksum:], sum.Sum64())
		if _, err := db.disk.WriteAt(page, int64(slot)*pageSize); err != nil {
			return err
		}
	}
	return nil
}

// verifyCheckpoint reads the pages of the checkpoint that h is of: those of an older one than the file's last are in use for
// something else, and the file must stay as it is.
func (db *DB) verifyCheckpoint(h *header) error {
	size, err := db.Size()
	if err != nil {
		return err
	}
	m, _, _ := readMeta(bytes.NewReader(h.meta[:]), 0)
	return verifyToOpen(db.disk, m, size)
}

// recoverLog does what the records after the checkpoint say, and makes that a checkpoint.
func (db *DB) recoverLog(h *header) error {
	began := time.Now()
	if !bytes.Equal(h.incarnation[:], db.incarnation) {
		return fmt.Errorf("%w: its log %s is of another file", ErrFormat, db.path+logSuffix)
	}
	// Rule 4: a power failure during recovery must find the checkpoint as it is. Without this, TestPowerFailure fails.
	pin, err := db.bolt.Begin(false)
	if err != nil {
		return err
	}
	db.cp.pin = pin
	tx, err := db.begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // which is nothing after a commit
	var size, records, total int
	err = db.wal.read(*h, func(payload []byte) error {
		if size >= replayBytes {
			if err := db.commit(tx, false); err != nil {
				return err
			}
			next, err := db.begin()
			if err != nil {
				return err
			}
			tx, size = next, 0
		}
		records++
		size += len(payload)
		total += len(payload)
		return replay(tx, payload)
	})
	if err == nil {
		err = db.commit(tx, false)
	}
	if err != nil {
		return fmt.Errorf("replay its log %s: %w", db.path+logSuffix, err)
	}
	// Rule 5: what was never acknowledged must not come to life behind what is written from now on. One epoch after the
	// header's may have been begun, too. See TestEveryRecoveryBeginsANewEpoch; without any new epoch, TestPowerFailure fails.
	db.wal.epoch = h.epoch + 1
	if err := db.checkpointNow(); err != nil {
		return err
	}
	took := time.Since(began)
	db.counters.count(func(s *Stats) { s.Recoveries++; s.RecoveryBytes += uint64(total); s.RecoveryTime += took })
	db.log.Info("the database was not closed cleanly; its log was replayed", "records", records, "bytes", total, "took", took)
	return nil
}

// recover opens the file anew, as after a crash. It is called when a commit has failed so that what bbolt or the system knows
// in memory may differ from the file (rule 7). Readers wait meanwhile.
func (db *DB) recover() error {
	// Nor may a checkpoint count that was under way: what its sync has lost, probe's sync of the same file may be told instead.
	db.dropCheckpoint()
	if db.openErr == nil {
		if err := db.probe(); err != nil {
			return err
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.release()
	if db.openErr = db.open(db.ctx); db.openErr == nil {
		db.stuck.Store(nil)
	}
	return db.openErr
}

// probe takes the record that was not acknowledged out of the log, and makes sure that the file can be written at all: as
// long as it cannot, readers are better off with what there is. It writes where nothing is yet.
func (db *DB) probe() error {
	if db.wal != nil {
		if err := db.wal.revoke(); err != nil {
			return err
		}
	}
	tx, err := db.bolt.Begin(false)
	if err != nil {
		return nil
	}
	size := tx.Size()
	if err := tx.Rollback(); err != nil {
		return err
	}
	if _, err := db.disk.WriteAt(zeros[:db.bolt.Info().PageSize], size); err != nil {
		return err
	}
	return db.disk.Sync()
}
