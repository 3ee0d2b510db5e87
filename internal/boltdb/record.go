package boltdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The operations in a record's payload, one after the other: a byte that says which, the number of the bucket that it
// changes, and what follows here. Numbers are unsigned varints, keys, values and names have their length before them.
// Bucket 0 is the top of the file; an operation that opens one gives it a number, for this record.
const (
	opOpen     = iota + 1 // number of the parent, name
	opPut                 // key, value
	opDelete              // key
	opSequence            // the bucket's counter
	opCreate              // name of a bucket in it
)

// maxKeptRecord bounds the memory that a recorder keeps for the next record, in bytes.
const maxKeptRecord = 4 << 20

// recorder keeps what a transaction changes as the payload of a record.
type recorder struct {
	b         []byte
	ops, puts int
	last      uint64 // number of the bucket that was opened last
}

// reset begins a new record.
func (r *recorder) reset() {
	if cap(r.b) > maxKeptRecord {
		r.b = nil
	}
	r.b = append(r.b[:0], zeros[:recordHeader]...)
	r.ops, r.puts, r.last = 0, 0, 0
}

// payload is the length of what was recorded.
func (r *recorder) payload() int { return len(r.b) - recordHeader }

func (r *recorder) op(op byte, bucket uint64) {
	r.b = binary.AppendUvarint(append(r.b, op), bucket)
	r.ops++
	if op == opPut {
		r.puts++
	}
}

func (r *recorder) bytes(b []byte) {
	r.b = append(binary.AppendUvarint(r.b, uint64(len(b))), b...)
}

// open gives a bucket its number.
func (r *recorder) open(parent uint64, name []byte) uint64 {
	r.last++
	r.op(opOpen, r.last)
	r.b = binary.AppendUvarint(r.b, parent)
	r.bytes(name)
	return r.last
}

// inRecord returns the number of b in the record of its transaction.
func (b *Bucket) inRecord() uint64 {
	if b.id == 0 && b.parent != nil {
		b.id = b.tx.rec.open(b.parent.inRecord(), b.name)
	}
	return b.id
}

var errRecord = errors.New("a record of the log makes no sense")

// replay does in tx what a record's payload says. Part of it may be in the file already, of which it reads nothing as long as
// there is memory for that: that of a large file is not there after a crash, and comes there a page at a time.
func replay(tx *Tx, payload []byte) error {
	r := &replayer{left: payload, buckets: map[uint64]*Bucket{0: &tx.top}}
	for len(r.left) > 0 {
		if err := r.step(); err != nil {
			return err
		}
	}
	tx.writeCounters()
	return nil
}

type replayer struct {
	left    []byte
	buckets map[uint64]*Bucket
	err     error
}

func (r *replayer) number() uint64 {
	v, n := binary.Uvarint(r.left)
	if n <= 0 {
		r.err, r.left = errRecord, nil
		return 0
	}
	r.left = r.left[n:]
	return v
}

func (r *replayer) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.left)) {
		r.err, r.left = errRecord, nil
		return nil
	}
	b := r.left[:n:n]
	r.left = r.left[n:]
	return b
}

func (r *replayer) step() error {
	op := r.left[0]
	r.left = r.left[1:]
	id := r.number()
	if op == opOpen {
		parent, name := r.number(), r.bytes()
		in := r.buckets[parent]
		if r.err != nil || in == nil {
			return errors.Join(errRecord, r.err)
		}
		b := in.Bucket(name)
		if b == nil {
			return fmt.Errorf("%w: there is no bucket %q", errRecord, name)
		}
		r.buckets[id] = b
		return nil
	}
	b := r.buckets[id]
	if b == nil {
		return errRecord
	}
	switch op {
	case opCreate:
		if name := r.bytes(); r.err == nil {
			_, r.err = b.CreateBucketIfNotExists(name)
		}
	case opPut:
		k, v := r.bytes(), r.bytes()
		if r.err == nil {
			b.put(k, v)
		}
	case opDelete:
		switch k := r.bytes(); {
		case r.err != nil:
		case b.tx.overlay.bytes < maxOverlay:
			b.set(changeDelete, bytes.Clone(k), nil)
		default:
			// What was put and deleted again has taken no memory, and may be most of the log.
			r.err = b.Delete(k)
		}
	case opSequence:
		if v := r.number(); r.err == nil {
			r.err = b.SetSequence(v)
		}
	default:
		return errRecord
	}
	return r.err
}
