package boltdb

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// The log lies beside the database file, as its path with "-wal" at the end, from the first write until a clean close. It
// holds what was written since the last checkpoint: a state of the database file that is whole on disk, and that nothing
// overwrites as long as the log needs it.
//
//	0      header slot 0            a header is written to the slots in turn
//	4096   header slot 1
//	8192   area 0                   an epoch, which a checkpoint begins, writes its records to the areas in turn
//	       area 1
//
// A header takes 512 bytes, numbers little-endian:
//
//	0   magic (8)          8   version (4)        12  page size (4)
//	16  epoch (8)          24  the sequence of its first record (8)
//	32  where its records begin (8)               40  how many bytes they may take (8)
//	48  CRC32C of the root page (4)               56  incarnation of the file (8)
//	64  the checkpoint's meta page, as far as it says anything (80)
//	508 CRC32C of what stands before it (4)
//
// A record is what one batch has written, padded to 512 bytes with zeros. It is no longer than an area.
//
//	0   CRC32C of the rest, without the padding (4)                    4   length of the payload (4)
//	8   epoch (8)          16  sequence, one more than that of the record before (8)
//	24  payload: operations; see record.go
//
// What counts is the header with the highest epoch that is whole, the records of its epoch, and then those of the next
// epoch, whose header may not have been written yet: from the area's beginning on, as long as epoch and sequence are as
// expected and the checksum is right. The rest is left over from earlier epochs, or was never acknowledged.
const (
	logSuffix  = "-wal"
	logVersion = 1
	logMagic   = 0x776c746c6f62_6470 // "pdboltlw"

	headerSize   = 512
	headerSlots  = 4096 // apart
	areasAt      = 2 * headerSlots
	recordHeader = 24
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

// header says where a checkpoint is, and where the records after it.
type header struct {
	pageSize    uint32
	epoch       uint64
	sequence    uint64
	at, size    int64
	rootSum     uint32
	incarnation [incarnationSize]byte
	meta        [pageHeader + metaLength]byte
}

func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	le.PutUint64(b, logMagic)
	le.PutUint32(b[8:], logVersion)
	le.PutUint32(b[12:], h.pageSize)
	le.PutUint64(b[16:], h.epoch)
	le.PutUint64(b[24:], h.sequence)
	le.PutUint64(b[32:], uint64(h.at))
	le.PutUint64(b[40:], uint64(h.size))
	le.PutUint32(b[48:], h.rootSum)
	copy(b[56:], h.incarnation[:])
	copy(b[64:], h.meta[:])
	le.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

// decodeHeader returns nil for what is no header.
func decodeHeader(b []byte) (*header, error) {
	le := binary.LittleEndian
	if le.Uint64(b) != logMagic || le.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) {
		return nil, nil
	}
	if v := le.Uint32(b[8:]); v != logVersion {
		return nil, fmt.Errorf("%w: its log has version %d, this build reads version %d", ErrFormat, v, logVersion)
	}
	h := &header{pageSize: le.Uint32(b[12:]), epoch: le.Uint64(b[16:]), sequence: le.Uint64(b[24:]),
		at: int64(le.Uint64(b[32:])), size: int64(le.Uint64(b[40:])), rootSum: le.Uint32(b[48:])}
	copy(h.incarnation[:], b[56:])
	copy(h.meta[:], b[64:])
	return h, nil
}

// wal is the open log. It belongs to the writer.
type wal struct {
	file     file
	areaSize int64

	// slot is that of the last header.
	slot     int
	epoch    uint64
	sequence uint64 // of the last record
	area     int
	// at is where the next record goes.
	at int64
	// filled is up to where each area was written before.
	filled [2]int64
	stats  *counters
}

// areaAt returns where an area begins.
func (l *wal) areaAt(area int) int64 { return areasAt + int64(area)*l.areaSize }

// newest returns the header that counts, or nil in a log that came to none.
func (l *wal) newest() (h *header, err error) {
	for slot := range 2 {
		b := make([]byte, headerSize)
		if _, err := l.file.ReadAt(b, int64(slot)*headerSlots); err != nil && err != io.EOF {
			return nil, err
		}
		found, err := decodeHeader(b)
		if err != nil {
			return nil, err
		}
		if found != nil && (h == nil || found.epoch > h.epoch) {
			h, l.slot = found, slot
		}
	}
	return h, nil
}

// read calls apply with the records that follow a checkpoint, and leaves the log where they end.
func (l *wal) read(h header, apply func(payload []byte) error) error {
	l.epoch, l.sequence, l.area = h.epoch, h.sequence-1, 0
	if h.at != areasAt {
		l.area = 1
	}
	at, end := h.at, h.at+h.size
	for epoch := h.epoch; ; {
		payload, err := l.record(at, end, epoch)
		if err != nil {
			return err
		}
		switch {
		case payload != nil:
			if err := apply(payload); err != nil {
				return err
			}
			l.sequence++
			l.epoch = epoch
			at += padded(len(payload))
		case epoch == h.epoch:
			epoch++
			at = l.areaAt(1 - l.area)
			end = at + l.areaSize
		default:
			return nil
		}
	}
}

// record returns the payload of the record at a place, or nil if there is none of that epoch that comes next.
func (l *wal) record(at, end int64, epoch uint64) ([]byte, error) {
	head := make([]byte, recordHeader)
	le := binary.LittleEndian
	if at+recordHeader > end {
		return nil, nil
	}
	if n, err := l.file.ReadAt(head, at); n < len(head) {
		return nil, eofIsNil(err)
	}
	length := int64(le.Uint32(head[4:]))
	if le.Uint64(head[8:]) != epoch || le.Uint64(head[16:]) != l.sequence+1 || length == 0 || at+recordHeader+length > end {
		return nil, nil
	}
	whole := make([]byte, recordHeader+length)
	if n, err := l.file.ReadAt(whole, at); n < len(whole) {
		return nil, eofIsNil(err)
	}
	if le.Uint32(whole) != crc32.Checksum(whole[4:], castagnoli) {
		return nil, nil
	}
	return whole[recordHeader:], nil
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

// fits reports whether there is room for a record.
func (l *wal) fits(payload int) bool { return l.at+padded(payload) <= l.end() }

// begin starts an epoch: rule 6, two areas in turn. Without it, records of the new epoch overwrite those that the last
// header still needs; see TestPowerFailure.
func (l *wal) begin(epoch uint64) {
	l.epoch, l.area = epoch, 1-l.area
	l.at = l.areaAt(l.area)
}

// append writes a record and syncs it. b has room for the record's header before the payload. If it fails, nobody knows
// whether the record is on disk. The next one goes to the same place, unless the caller goes on.
func (l *wal) append(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	payload := len(b) - recordHeader
	le.PutUint32(b[4:], uint32(payload))
	le.PutUint64(b[8:], l.epoch)
	le.PutUint64(b[16:], l.sequence+1)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	for int64(len(b)) < padded(payload) {
		b = append(b, zeros[:padded(payload)-int64(len(b))]...)
	}
	if _, err := l.file.WriteAt(b, l.at); err != nil {
		return b, &notSynced{err}
	}
	l.fill(l.at + int64(len(b)))
	began := time.Now()
	if err := l.file.Sync(); err != nil {
		return b, err
	}
	took := time.Since(began)
	l.stats.count(func(s *Stats) { s.SyncTime += took; s.LogBytes += uint64(len(b)) })
	return b, nil
}

// next goes on behind a record of so many bytes.
func (l *wal) next(record int) {
	l.at += int64(record)
	l.sequence++
}

// notSynced is a write that failed, as opposed to a sync, after which what was written earlier may be lost, too.
type notSynced struct{ err error }

func (e *notSynced) Error() string { return e.err.Error() }
func (e *notSynced) Unwrap() error { return e.err }

// revoke makes sure that the record behind the last one, whose writers are told that it failed, is never read.
func (l *wal) revoke() error {
	if l.at == l.end() {
		return nil // what lies there is the other area's
	}
	if _, err := l.file.WriteAt(zeros[:sector], l.at); err != nil {
		// On a full disk, this may be as impossible as the record was. One that was not written to its end is none.
		if payload, unread := l.record(l.at, l.end(), l.epoch); unread != nil || payload != nil {
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

// writeHeader makes h the header that counts: rule 6, two slots in turn. Without it, a header that is half written is
// the only one; see TestAHeaderThatIsHalfWritten.
func (l *wal) writeHeader(h *header) error {
	if err := l.putHeader(h, 1-l.slot); err != nil {
		return err
	}
	l.slot = 1 - l.slot
	return nil
}

func (l *wal) putHeader(h *header, slot int) error {
	if _, err := l.file.WriteAt(h.encode(), int64(slot)*headerSlots); err != nil {
		return err
	}
	return l.file.Sync()
}
