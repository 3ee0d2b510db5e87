package statestore

import (
	"errors"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// ErrETagMismatch means that the key is not in the version that the write asked for. See ETagMismatchError.
var ErrETagMismatch = errors.New("etag mismatch")

// Conditional reports whether CheckETag depends on what is stored.
func (w *Write) Conditional() bool { return w.ETag != "" || w.needsNoKey() }

func (w *Write) needsNoKey() bool { return w.ETag == "" && w.FirstWrite && w.Op == OpSet }

// CheckETag returns an ETagMismatchError if the write must not take effect on a key whose present version has the ETag
// stored (empty: the key does not exist, or has expired):
//
//   - A write that names an ETag needs that version, whatever its concurrency mode.
//   - A first-write set without an ETag needs the key not to exist.
//   - Every other write takes effect.
func (w *Write) CheckETag(stored string) error {
	switch {
	case w.ETag != "" && w.ETag != stored, w.needsNoKey() && stored != "":
		return &ETagMismatchError{Key: w.Key, ETag: w.ETag, Stored: stored}
	default:
		return nil
	}
}

// ETagMismatchError says which write did not find the version that it asked for.
type ETagMismatchError struct {
	Key string
	// ETag is the one that the write asked for; empty: it asked for the key not to exist (first-write).
	ETag string
	// Stored is the ETag of the key's present version; empty: the key does not exist.
	Stored string
}

func (e *ETagMismatchError) Error() string {
	switch {
	case e.ETag == "":
		return fmt.Sprintf("key %s: it exists with etag %q, and a first-write without an etag is allowed only on a new key",
			invalid.Quote(e.Key), e.Stored)
	case e.Stored == "":
		return fmt.Sprintf("key %s: etag %s does not match: the key does not exist", invalid.Quote(e.Key), invalid.Quote(e.ETag))
	default:
		return fmt.Sprintf("key %s: etag %s does not match: the key has etag %q", invalid.Quote(e.Key), invalid.Quote(e.ETag), e.Stored)
	}
}

// Unwrap returns ErrETagMismatch.
func (e *ETagMismatchError) Unwrap() error { return ErrETagMismatch }
