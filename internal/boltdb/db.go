// Package boltdb keeps one bbolt file: it opens and locks it, checks its format version, and gathers concurrent
// writers into shared, synced transactions.
package boltdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// FormatVersion is the layout of the files that this build writes. A file with a newer one is refused, untouched.
const FormatVersion = 1

var (
	// ErrClosed answers every call on a DB after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrLocked means that another process has the file open; the error's text names it where the system tells.
	ErrLocked = errors.New("the database file is in use")
	// ErrFormat means that the file is not one that this build can read.
	ErrFormat = errors.New("not a database file of this version")
)

var (
	bucketFormat  = []byte("format")
	keyVersion    = []byte("version")
	keyWriteProbe = []byte("probe")
)

// initialMmap is address space, not memory or disk: as long as the file is smaller, growing it never has to wait for
// readers to finish.
const initialMmap = 1 << 30

// Options for Open; the zero value is the documented default.
type Options struct {
	// Logger hears of panics in write functions. Default: slog.Default().
	Logger *slog.Logger
	// LockTimeout is how long Open waits for another process to let go of the file. Default: 1s.
	LockTimeout time.Duration
	// LazyDelay is how long UpdateLazily may wait for a commit to ride along with. Default: 2ms; negative: not at all.
	LazyDelay time.Duration
}

// DB is one open file. All methods may be called from any goroutine.
type DB struct {
	bolt      *bbolt.DB
	log       *slog.Logger
	lazyDelay time.Duration

	urgent, lazy chan *request
	stop         chan struct{}
	stopped      chan struct{} // by the writer
	watched      chan struct{} // by watchResident
	closeOnce    sync.Once
	closeErr     error

	// lastWrite is the outcome of the newest commit; see Ready.
	lastWrite atomic.Pointer[error]
}

// Open opens the file at path, creates it (mode 0600) if it is missing, and starts its writer. The directory must
// exist. The caller must Close the DB.
//
// Errors: ErrLocked when another process holds the file, ErrFormat when it is not a file of this format or of a newer
// version (it is left as it was), and the system's errors.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.LockTimeout == 0 {
		opts.LockTimeout = time.Second
	}
	if opts.LazyDelay == 0 {
		opts.LazyDelay = 2 * time.Millisecond
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	bolt, err := openBolt(path, opts.LockTimeout)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	if err := ensureFormat(bolt); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, errors.Join(err, bolt.Close()))
	}

	db := &DB{
		bolt:      bolt,
		log:       opts.Logger.With("database", path),
		lazyDelay: opts.LazyDelay,
		urgent:    make(chan *request, maxBatch),
		lazy:      make(chan *request, maxBatch),
		stop:      make(chan struct{}),
		stopped:   make(chan struct{}),
		watched:   make(chan struct{}),
	}
	go db.write()
	go db.watchResident()
	return db, nil
}

// openBolt turns bbolt's errors, and the panics with which it answers damaged files, into errors of this package.
func openBolt(path string, lockTimeout time.Duration) (bolt *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			bolt, err = nil, fmt.Errorf("%w: damaged: %v", ErrFormat, p)
		}
	}()
	bolt, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: initialMmap,
		NoStatistics:    true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w by %s", ErrLocked, lockHolder(path))
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return bolt, err
}

// ensureFormat checks the version of an existing file and writes it into a new one.
func ensureFormat(bolt *bbolt.DB) error {
	fresh := false
	err := bolt.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFormat)
		if b == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return fmt.Errorf("%w: it is a bbolt file of another program (bucket %q)", ErrFormat, k)
			}
			fresh = true
			return nil
		}
		raw := b.Get(keyVersion)
		if len(raw) != 8 {
			return fmt.Errorf("%w: its version takes %d bytes, want 8", ErrFormat, len(raw))
		}
		if v := binary.BigEndian.Uint64(raw); v != FormatVersion {
			return fmt.Errorf("%w: it has format %d, this build reads format %d", ErrFormat, v, FormatVersion)
		}
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	return bolt.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(bucketFormat)
		if err != nil {
			return err
		}
		return b.Put(keyVersion, binary.BigEndian.AppendUint64(nil, FormatVersion))
	})
}

// Path returns the file's path as it was given to Open.
func (db *DB) Path() string { return db.bolt.Path() }

// View runs fn on a consistent snapshot. Bytes that fn sees are valid only until it returns. A long fn keeps the space
// of what is deleted meanwhile from being used again.
func (db *DB) View(fn func(tx *bbolt.Tx) error) error {
	err := db.bolt.View(fn)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Ready says whether writes work: it returns the error of the last commit, unless a small write succeeds now.
func (db *DB) Ready(ctx context.Context) error {
	if last := db.lastWrite.Load(); last == nil || *last == nil {
		return db.View(func(*bbolt.Tx) error { return nil })
	}
	return db.Update(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFormat).Put(keyWriteProbe, nil)
	})
}

// Size returns the length of the file in bytes.
func (db *DB) Size() (int64, error) {
	info, err := os.Stat(db.Path())
	if err != nil {
		return 0, fmt.Errorf("size of database: %w", err)
	}
	return info.Size(), nil
}

// Backup writes a consistent copy of the file to path, which must not exist, while reads and writes go on. The copy is
// synced and whole before it has that name.
func (db *DB) Backup(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up database: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(f); return err })
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what is there.
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; name a new file: %w", path, fs.ErrExist)
	}
	return err
}

// Close waits for the writes that were already taken, then closes the file. Later calls return the same.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.stop)
		<-db.stopped
		<-db.watched
		if err := db.bolt.Close(); err != nil {
			db.closeErr = fmt.Errorf("close database %s: %w", db.Path(), err)
		}
	})
	return db.closeErr
}
