package boltdb

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// The log lies beside the database file, as its path with "-wal" at the end, from the first write until a clean close. It
// holds what was written since the last checkpoint, which is what the file holds.
//
//	0      header, written once, when the log begins
//	4096   area 0
//	       area 1
//
// The header takes 512 bytes, numbers little-endian:
//
//	0   magic (8)          8   version (4)        16  the log's id, drawn at random (8)
//	24  how long an area is (8)
//	508 CRC32C of what stands before it (4)
//
// A record is what one batch has written, padded to 512 bytes with zeros. It is no longer than an area.
//
//	0   CRC32C (4) of the rest, without the padding, that goes on from the CRC32C of the record before; the first in an area
//	    goes on from that of the log's id
//	4   length of the payload (4)                 8   sequence, one more than that of the record before (8)
//	16  payload: operations; see record.go
//
// Records go to one area until a checkpoint begins, and then to the other one. The file says, in the commit that ends a
// checkpoint, up to which record it holds everything (see format.go). What counts are the records after that: those of an
// area, from its beginning as long as sequence and checksum are as expected, and those of the other one if they go on from
// there. The rest is left over from before, or was never acknowledged.
const (
	logSuffix  = "-wal"
	logVersion = 2
	logMagic   = 0x776c746c6f62_6470 // "pdboltlw"

	headerSize   = 512
	areasAt      = 4096
	recordHeader = 16
	logIDSize    = 8
	sector       = 512
	// An area is filled with zeros ahead of the records, as much again as they take, within these bounds: a synced write is
	// much faster where nothing but the content of blocks changes.
	minFillStep = 64 << 10
	fillStep    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// file is what is done with the files that are open. Tests put power failures and failing disks in its place.
type file interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes what was written last, and the file's length.
	Sync() error
	// Allocate makes sure that the disk has room for a range of the file.
	Allocate(from, to int64) error
	Close() error
}

// wal is the open log. It belongs to the writer.
type wal struct {
	file     file
	id       [logIDSize]byte
	areaSize int64

	area     int
	sequence uint64 // of the last record
	// at is where the next record goes, and sum what its checksum goes on from.
	at  int64
	sum uint32
	// written: a whole record was written there, which may be on the disk.
	written bool
	// filled is up to where each area was written before.
	filled [2]int64
	stats  *counters
}

// writeHeader begins the log.
func (l *wal) writeHeader() error {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	le.PutUint64(b, logMagic)
	le.PutUint32(b[8:], logVersion)
	copy(b[16:], l.id[:])
	le.PutUint64(b[24:], uint64(l.areaSize))
	le.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	if _, err := l.file.WriteAt(b, 0); err != nil {
		return err
	}
	l.enter(0)
	return l.file.Sync()
}

// readHeader reports whether there is a whole header, and takes from it what the log is like.
func (l *wal) readHeader() (whole bool, err error) {
	b := make([]byte, headerSize)
	if n, err := l.file.ReadAt(b, 0); n < len(b) {
		return false, eofIsNil(err)
	}
	le := binary.LittleEndian
	if le.Uint64(b) != logMagic || le.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) {
		return false, nil
	}
	if v := le.Uint32(b[8:]); v != logVersion {
		return false, fmt.Errorf("%w: its log has version %d, this build reads version %d: let the dapr-bolt that wrote it open and close the file", ErrFormat, v, logVersion)
	}
	copy(l.id[:], b[16:])
	l.areaSize = int64(le.Uint64(b[24:]))
	return true, nil
}

// areaAt returns where an area begins.
func (l *wal) areaAt(area int) int64 { return areasAt + int64(area)*l.areaSize }

// enter makes the next record the first of an area.
func (l *wal) enter(area int) {
	l.area, l.at = area, l.areaAt(area)
	l.sum = crc32.Checksum(l.id[:], castagnoli)
}

// first returns the sequence of an area's first record, or 0 if it has none.
func (l *wal) first(area int) (sequence uint64, err error) {
	head := make([]byte, recordHeader)
	if n, err := l.file.ReadAt(head, l.areaAt(area)); n < len(head) {
		return 0, eofIsNil(err)
	}
	l.enter(area)
	l.sequence = binary.LittleEndian.Uint64(head[8:]) - 1
	if record, err := l.record(); record == nil {
		return 0, err
	}
	return l.sequence + 1, nil
}

// read calls apply with the records of an area that come after a sequence, and leaves the log behind the last of all of them.
func (l *wal) read(area int, after uint64, apply func(sequence uint64, payload []byte) error) error {
	first, err := l.first(area)
	if first == 0 || err != nil {
		return err
	}
	for {
		record, err := l.record()
		if record == nil {
			return err
		}
		l.next(record)
		if l.sequence > after {
			if err := apply(l.sequence, record[recordHeader:]); err != nil {
				return err
			}
		}
	}
}

// record returns the record that comes next, with its header but without its padding, or nil if there is none.
func (l *wal) record() ([]byte, error) {
	head := make([]byte, recordHeader)
	le := binary.LittleEndian
	if l.at+recordHeader > l.end() {
		return nil, nil
	}
	if n, err := l.file.ReadAt(head, l.at); n < len(head) {
		return nil, eofIsNil(err)
	}
	length := int64(le.Uint32(head[4:]))
	if le.Uint64(head[8:]) != l.sequence+1 || length == 0 || l.at+recordHeader+length > l.end() {
		return nil, nil
	}
	whole := make([]byte, recordHeader+length)
	if n, err := l.file.ReadAt(whole, l.at); n < len(whole) {
		return nil, eofIsNil(err)
	}
	if le.Uint32(whole) != crc32.Update(l.sum, castagnoli, whole[4:]) {
		return nil, nil
	}
	return whole, nil
}

func eofIsNil(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// padded is what a record takes in the log, in bytes.
func padded(payload int) int64 { return (int64(payload) + recordHeader + sector - 1) / sector * sector }

// end returns where the area ends that records go to.
func (l *wal) end() int64 { return l.areaAt(l.area) + l.areaSize }

// used is what the records in the area take, in bytes.
func (l *wal) used() int64 { return l.at - l.areaAt(l.area) }

// fits reports whether there is room for a record.
func (l *wal) fits(payload int) bool { return l.at+padded(payload) <= l.end() }

// append writes a record and syncs it. b has room for the record's header before the payload. If it fails, nobody knows
// whether the record is on disk; the next one goes to the same place.
func (l *wal) append(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	payload := len(b) - recordHeader
	le.PutUint32(b[4:], uint32(payload))
	le.PutUint64(b[8:], l.sequence+1)
	le.PutUint32(b, crc32.Update(l.sum, castagnoli, b[4:]))
	record := b
	if short := padded(payload) - int64(len(b)); short > 0 {
		b = append(b, zeros[:short]...)
	}
	n, err := l.file.WriteAt(b, l.at)
	l.written = l.written || n == len(b)
	if err != nil {
		return b, err
	}
	l.fill(l.at + int64(len(b)))
	began := time.Now()
	if err := l.file.Sync(); err != nil {
		return b, err
	}
	took := time.Since(began)
	l.next(record)
	l.stats.count(func(s *Stats) { s.SyncTime += took; s.LogBytes += uint64(len(b)) })
	return b, nil
}

// next goes on behind a record.
func (l *wal) next(record []byte) {
	l.written = false
	l.at += padded(len(record) - recordHeader)
	l.sequence++
	l.sum = binary.LittleEndian.Uint32(record)
}

// revoke makes sure that the record behind the last one, whose writers are told that it failed, is never read.
func (l *wal) revoke() error {
	if _, err := l.file.WriteAt(zeros[:sector], l.at); err != nil && (l.written || !noRoom(err)) {
		return err // on a full disk, this may be as impossible as the record was, which was not written to its end
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	l.written = false
	return nil
}

// settle makes sure, after the log was read, that the disk has what the system shows of it, which a failed sync may have left
// different: the last record, which begins at a place (-1: there is none), and that there is no record behind it, or in
// areas that were found empty. Without either, TestARestartSettlesWhatTheLogShows fails.
func (l *wal) settle(last int64, emptyZero, emptyOne bool) error {
	if last >= 0 {
		b := make([]byte, l.at-last)
		if _, err := l.file.ReadAt(b, last); err != nil && err != io.EOF { // its padding may be missing
			return err
		}
		if _, err := l.file.WriteAt(b, last); err != nil {
			return err
		}
	}
	for at, empty := range map[int64]bool{l.areaAt(0): emptyZero, l.areaAt(1): emptyOne, l.at: l.at < l.end()} {
		if !empty {
			continue
		}
		if _, err := l.file.WriteAt(zeros[:sector], at); err != nil && !noRoom(err) {
			return err
		}
	}
	return l.file.Sync()
}

// fill fills the area ahead of a record that ends at a place where nothing was written before: the record's sync then makes
// that last, too. On a full disk it fails, which is no matter: records are written either way.
func (l *wal) fill(end int64) {
	if end <= l.filled[l.area] {
		return
	}
	to := min(end+min(max(end-l.areaAt(l.area), minFillStep), fillStep), l.end())
	if err := writeZeros(l.file, end, to); err != nil {
		to = end
	}
	l.filled[l.area] = to
}

// zeros is never written to, and so takes no memory.
var zeros [fillStep]byte

// writeZeros writes a page at a time. What is written at once, Linux may keep in memory as one piece, and whoever then
// writes 512 bytes of it has all of it counted as written, and looked through by the sync.
func writeZeros(f file, from, to int64) error {
	const page = 4 << 10
	for from < to {
		n, err := f.WriteAt(zeros[:min(to-from, page-from%page)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
