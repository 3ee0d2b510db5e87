package boltdb

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// FormatVersion is the layout of the files that this build writes. A file with a newer one is refused, untouched; one
// with an older one is brought up to date when it is opened.
//
// A change that an older build would misread gets a new version, a step in migrations, and a file of the version before
// it in internal/databases/testdata, which a test opens. A change that every build can read, such as a new field of
// a record, needs none of these.
const FormatVersion = 3

// migrations brings a file of the version that is its key to the next one. All steps that a file needs, and its new
// version, are one transaction: a file is never half migrated, and a failed step leaves it as it was.
var migrations = map[uint64]func(tx *bbolt.Tx) error{
	// There may be a log beside the file. Before, free pages were put aside in a bucket.
	2: func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte("spare")); !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
		return nil
	},
}

var (
	bucketFormat   = []byte("format")
	keyVersion     = []byte("version")
	keyIncarnation = []byte("incarnation")
	keyWriteProbe  = []byte("probe")
	// keyLog is there as long as the file is not whole without its log.
	keyLog = []byte("log")
)

// incarnationSize is in bytes.
const incarnationSize = 8

// newIncarnation gives the file in tx an incarnation of its own.
func newIncarnation(tx *bbolt.Tx) error {
	id := make([]byte, incarnationSize)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	return tx.Bucket(bucketFormat).Put(keyIncarnation, id)
}

// readIncarnation returns the file's incarnation, or nil if it has none.
func readIncarnation(tx *bbolt.Tx) ([]byte, error) {
	id := tx.Bucket(bucketFormat).Get(keyIncarnation)
	if id != nil && len(id) != incarnationSize {
		return nil, fmt.Errorf("%w: its incarnation takes %d bytes, want %d", ErrFormat, len(id), incarnationSize)
	}
	return bytes.Clone(id), nil
}

// ensureFormat makes sure that a file is of the wanted version: it writes that into a new one, and takes the steps from
// an older one. It returns the file's incarnation. logged says that the file has a log.
func ensureFormat(bolt *bbolt.DB, wanted uint64, steps map[uint64]func(tx *bbolt.Tx) error, logged bool) (incarnation []byte, err error) {
	var found uint64 // 0: the file is new
	err = bolt.View(func(tx *bbolt.Tx) (err error) {
		if found, err = readVersion(tx); err != nil || found == 0 {
			return err
		}
		if tx.Bucket(bucketFormat).Get(keyLog) != nil && !logged {
			return fmt.Errorf("%w: it was not closed cleanly, and its log, which lay beside it with %q at the end of its name, is not there", ErrFormat, logSuffix)
		}
		incarnation, err = readIncarnation(tx)
		return err
	})
	if err != nil || found == wanted && incarnation != nil {
		return incarnation, err
	}
	if found > wanted {
		return nil, fmt.Errorf("%w: it was written by a newer dapr-bolt: it has format %d, this build reads up to format %d", ErrFormat, found, wanted)
	}
	err = bolt.Update(func(tx *bbolt.Tx) error {
		for v := found; v > 0 && v < wanted; v++ {
			step := steps[v]
			if step == nil {
				return fmt.Errorf("%w: it has format %d, which this build cannot bring to format %d", ErrFormat, found, wanted)
			}
			if err := step(tx); err != nil {
				return fmt.Errorf("bring it from format %d to %d: %w", v, v+1, err)
			}
		}
		b, err := tx.CreateBucketIfNotExists(bucketFormat)
		if err != nil {
			return err
		}
		if incarnation == nil {
			if err := newIncarnation(tx); err != nil {
				return err
			}
			incarnation, _ = readIncarnation(tx)
		}
		return b.Put(keyVersion, binary.BigEndian.AppendUint64(nil, wanted))
	})
	return incarnation, err
}

// readVersion returns the file's version, or 0 if nothing was ever stored in it.
func readVersion(tx *bbolt.Tx) (uint64, error) {
	b := tx.Bucket(bucketFormat)
	if b == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return 0, foreign(k)
		}
		return 0, nil
	}
	raw := b.Get(keyVersion)
	if len(raw) != 8 {
		return 0, fmt.Errorf("%w: its version takes %d bytes, want 8", ErrFormat, len(raw))
	}
	v := binary.BigEndian.Uint64(raw)
	if v == 0 {
		return 0, fmt.Errorf("%w: it has format 0, which never was", ErrFormat)
	}
	return v, nil
}

// foreign says that a file has buckets, among them this one, but not ours.
func foreign(bucket []byte) error {
	return fmt.Errorf("%w: it is a bbolt file of another program (bucket %q)", ErrFormat, bucket)
}
