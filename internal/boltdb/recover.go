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
	"math"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// replayBytes bounds the records that one transaction replays, in bytes.
const replayBytes = 8 << 20

// everything is the sequence up to which a log is replayed after a crash: whatever is whole in it counts.
const everything = math.MaxUint64

// findLog opens the log of a file that was not closed cleanly, and puts the file back to the checkpoint that the log
// belongs to. It is called with the file locked, and before bbolt has seen it.
func (db *DB) findLog() (*wal, *header, error) {
	path := db.path + logSuffix
	f, err := db.openFile(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open its log: %w", err)
	}
	l := db.newLog(f)
	h, ok, err := l.newest()
	if err == nil && ok {
		err = db.restore(&h)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if !ok {
		// The file was not written to since the log was made.
		return nil, nil, errors.Join(f.Close(), os.Remove(path), durable.SyncDir(filepath.Dir(path)))
	}
	return l, &h, nil
}

// restore makes the checkpoint count that h is of. Both meta pages are written (rule 3): whichever is there may be of a
// later transaction, whose pages are not. The other one gets the same with a lower transaction number; bbolt refuses
// zeros. That need not be synced: until there is another header, every recovery begins here.
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

// recoverLog does what the records after the checkpoint say, up to a sequence, and makes that a checkpoint.
func (db *DB) recoverLog(l *wal, h *header, last uint64) error {
	began := time.Now()
	if !bytes.Equal(h.incarnation[:], db.incarnation) {
		return fmt.Errorf("%w: its log %s is of another file", ErrFormat, l.path)
	}
	// Rule 4: a power failure during recovery must find the checkpoint as it is.
	pin, err := db.bolt.Begin(false)
	if err != nil {
		return err
	}
	db.wal, db.cp = l, checkpoint{pin: pin}
	var tx *bbolt.Tx
	var size, records, total int
	end := func() error {
		if tx == nil {
			return nil
		}
		done := tx
		tx, size = nil, 0
		return db.commit(done, false)
	}
	err = l.read(*h, last, func(payload []byte) error {
		if tx == nil {
			if tx, err = db.begin(); err != nil {
				return err
			}
		}
		if err := replay(tx, payload); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		records++
		size += len(payload)
		total += len(payload)
		if size < replayBytes {
			return nil
		}
		return end()
	})
	if err == nil {
		err = end()
	}
	if err != nil {
		return fmt.Errorf("replay its log %s: %w", l.path, err)
	}
	// Rule 5: what was never acknowledged must not come to life behind what is written from now on. One epoch after the
	// header's may have been begun, too.
	l.epoch = h.epoch + 1
	if err := db.checkpointNow(0); err != nil {
		return err
	}
	db.counters.recovered(time.Since(began), total)
	db.log.Info("the database was not closed cleanly; its log was replayed", "records", records, "bytes", total, "took", time.Since(began))
	return nil
}

// recover opens the file anew, and takes it to what was acknowledged. It is called when a commit has failed so that what
// bbolt or the system knows in memory may differ from the file (rule 7). Readers wait meanwhile.
func (db *DB) recover() error {
	if db.openErr == nil {
		if err := db.probe(); err != nil {
			return err
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	last := uint64(everything)
	switch {
	case db.openErr != nil:
		last = db.acknowledged
	case db.wal != nil:
		last = db.wal.sequence
		fallthrough
	default:
		db.release()
	}
	db.acknowledged = last
	if db.openErr = db.open(db.ctx, last); db.openErr == nil {
		db.stuck.Store(nil)
	}
	return db.openErr
}

// probe makes sure that the files can be written at all: as long as they cannot, readers are better off with what there is.
// It writes where nothing is yet.
func (db *DB) probe() error {
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
	if err := db.disk.Sync(); err != nil || db.wal == nil {
		return err
	}
	return db.wal.revoke(db.wal.at)
}

// release closes everything as it is.
func (db *DB) release() {
	if db.cp.done != nil {
		<-db.cp.done
	}
	if db.wal != nil {
		db.wal.waitFilled()
		_ = db.wal.file.Close()
	}
	db.unpin()
	db.wal = nil
	if err := db.bolt.Close(); err != nil {
		db.log.Warn("a database that is opened anew was not closed well", "error", err)
	}
}
