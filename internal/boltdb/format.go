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
// with an older one, from oldestVersion on, is brought up to date when it is opened.
//
// A change that an older build would misread gets a new version, a step in ensureFormat, and a file of the version before
// it in internal/databases/testdata, which a test opens. A change that every build can read, such as a new field of
// a record, needs none of these.
const (
	FormatVersion = 4
	oldestVersion = 2
)

var (
	bucketFormat   = []byte("format")
	keyVersion     = []byte("version")
	keyIncarnation = []byte("incarnation")
	keyWriteProbe  = []byte("probe")
	// keyLog is there as long as the file is not whole without its log: the log's id, and the sequence of the last record that
	// the file holds (8 bytes each). keyEndedLog is the id of the log that was removed last.
	keyLog      = []byte("log")
	keyEndedLog = []byte("ended")
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

// readFormat returns the file's version, or 0 if nothing was ever stored in it, and its incarnation, or refuses a file that
// this build cannot use.
func readFormat(tx *bbolt.Tx) (version uint64, incarnation []byte, err error) {
	version, err = readVersion(tx)
	switch {
	case err != nil || version == 0:
		return 0, nil, err
	case version > FormatVersion:
		return 0, nil, fmt.Errorf("%w: it was written by a newer dapr-bolt: it has format %d, this build reads up to format %d", ErrFormat, version, FormatVersion)
	case version < oldestVersion:
		return 0, nil, fmt.Errorf("%w: it has format %d, this build reads from format %d on", ErrFormat, version, oldestVersion)
	}
	incarnation, err = readIncarnation(tx)
	return version, incarnation, err
}

// ensureFormat writes the format into a new file, brings an older one up to date in one transaction, and returns the file's
// incarnation.
func ensureFormat(bolt *bbolt.DB) (incarnation []byte, err error) {
	var found uint64
	err = bolt.View(func(tx *bbolt.Tx) (err error) {
		found, incarnation, err = readFormat(tx)
		return err
	})
	if err != nil || found == FormatVersion && incarnation != nil {
		return incarnation, err
	}
	err = bolt.Update(func(tx *bbolt.Tx) error {
		if found == 2 {
			// Free pages were put aside in a bucket, and there was no log.
			if err := tx.DeleteBucket([]byte("spare")); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
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
		return b.Put(keyVersion, binary.BigEndian.AppendUint64(nil, FormatVersion))
	})
	return incarnation, err
}

// formatValue returns what a key of the format's bucket says, or nil.
func formatValue(tx *bbolt.Tx, key []byte) []byte {
	if b := tx.Bucket(bucketFormat); b != nil {
		return b.Get(key)
	}
	return nil
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
