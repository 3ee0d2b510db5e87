package boltdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The meta pages of bbolt's file format, version 2: pages 0 and 1, of which the valid one with the higher transaction id
// counts. Numbers are in the byte order of the machine. Layout: a page header of 16 bytes, then magic, version, page size
// and flags (4 bytes each), and root bucket, its sequence, free list, high-water mark, transaction id and checksum
// (8 bytes each; the checksum is FNV-1a of what stands before it).
const (
	pageHeader      = 16
	metaLength      = 64
	metaMagic       = 0xED0CDAED
	metaVersion     = 2
	metaPageSize    = 8
	metaRoot        = 16
	metaFreelist    = 32
	metaHighWater   = 40
	metaTransaction = 48
	metaChecksum    = 56
	// noFreelist stands in place of the free list after a commit that left it out.
	noFreelist = ^uint64(0)
	// minPageSize and maxPageSize are what bbolt looks for the second meta page at.
	minPageSize, maxPageSize = 1 << 10, 16 << 20
)

// meta is what a meta page says.
type meta struct {
	pageSize, root, freelist, highWater, transaction uint64
}

// readMeta reads the meta page at offset. magic says that it is bbolt's, valid that it is also whole.
func readMeta(f io.ReaderAt, offset int64) (m meta, magic, valid bool) {
	raw := make([]byte, pageHeader+metaLength)
	if _, err := f.ReadAt(raw, offset); err != nil {
		return meta{}, false, false
	}
	raw = raw[pageHeader:]
	order := binary.NativeEndian
	h := fnv.New64a()
	_, _ = h.Write(raw[:metaChecksum])
	magic = order.Uint32(raw) == metaMagic
	valid = magic && order.Uint32(raw[4:]) == metaVersion && order.Uint64(raw[metaChecksum:]) == h.Sum64()
	return meta{
		pageSize:    uint64(order.Uint32(raw[metaPageSize:])),
		root:        order.Uint64(raw[metaRoot:]),
		freelist:    order.Uint64(raw[metaFreelist:]),
		highWater:   order.Uint64(raw[metaHighWater:]),
		transaction: order.Uint64(raw[metaTransaction:]),
	}, magic, valid
}

// errHalfMeta warns of a file of which one meta page is damaged.
var errHalfMeta = errors.New("one of the two meta pages is damaged: what was written last is in the other one, if the file was closed cleanly")

// maxVerified is the length, in bytes, up to which every page of a file is read when it is opened.
const maxVerified = 64 << 20

// inspect refuses a file that bbolt would misread, crash on, or change before it is known to be ours. It changes
// nothing. A new, empty file passes. The warning is for a file that can be used.
func inspect(f *os.File) (warning, err error) {
	info, err := f.Stat()
	if err != nil || info.Mode().IsRegular() && info.Size() == 0 {
		return nil, err
	}
	newest, both, err := newestState(f)
	if err != nil {
		return nil, err
	}
	// Longer files are read where a build without a log has left the list of free pages out: bbolt would read them, too.
	if info.Size() <= maxVerified || newest.freelist == noFreelist {
		verify(f, newest, func(damage error) bool { err = damage; return false })
		if err != nil {
			return nil, err
		}
	}
	if !both {
		return errHalfMeta, nil
	}
	return nil, nil
}

// newestState returns what the meta page says that counts, and whether both meta pages are whole.
func newestState(f *os.File) (newest meta, both bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return meta{}, false, err
	}
	if !info.Mode().IsRegular() {
		return meta{}, false, fmt.Errorf("%w: it is not a file", ErrFormat)
	}
	size := info.Size()
	newest, magic, whole := readMeta(f, 0)
	both = whole
	if whole {
		second, _, valid := readMeta(f, int64(newest.pageSize))
		both = valid
		if valid && second.transaction > newest.transaction {
			newest = second
		}
	}
	for at := int64(minPageSize); !whole && at <= maxPageSize && at < size; at *= 2 {
		var hasMagic bool
		if newest, hasMagic, whole = readMeta(f, at); whole && newest.pageSize != uint64(at) {
			whole = false
		}
		magic = magic || hasMagic
	}
	switch {
	case !magic:
		err = fmt.Errorf("%w: it is no bbolt file", ErrFormat)
	case !whole:
		err = fmt.Errorf("%w: damaged: both of the pages that say where everything is are", ErrFormat)
	case newest.highWater > uint64(size)/newest.pageSize:
		err = fmt.Errorf("%w: cut short: it has %d bytes, its pages take %d", ErrFormat, size, newest.highWater*newest.pageSize)
	}
	return newest, both, err
}
