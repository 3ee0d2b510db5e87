// Package boltdb keeps one bbolt file: it opens and locks it, checks its format version, and gathers concurrent
// writers into shared, synced transactions.
package boltdb

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

var (
	// ErrClosed answers every call on a DB after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrLocked means that another process has the file open; the error's text names it where the system tells.
	ErrLocked = errors.New("the database file is in use")
	// ErrFormat means that the file is not one that this build can read.
	ErrFormat = errors.New("not a database file of this version")
	// ErrDamaged means that reading met what cannot be.
	ErrDamaged = errors.New("the database file is damaged (dapr-bolt check says where), or this is a bug")
)

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
	path      string
	opts      Options
	log       *slog.Logger
	lazyDelay time.Duration

	// mu is held by readers, and by the writer while it opens the file anew; see trust.
	mu   sync.RWMutex
	bolt *bbolt.DB
	// file is bolt's own handle.
	file *os.File
	// incarnation stays as it is as long as the file is open.
	incarnation []byte
	// openErr says why there is no open file; nil: there is one.
	openErr error

	// suspect belongs to the writer: what bbolt knows in memory may differ from the file. doubtful is a transaction that
	// failed and may yet be on disk; zero: there is none. See distrust.
	suspect  bool
	doubtful uint64
	// patience is the writer's too: how long lazy writes still wait for company.
	patience *time.Timer
	// spare, too, belongs to the writer.
	spare spares
	// copies counts the calls of Backup that are under way.
	copies atomic.Int32

	urgent, lazy chan *request
	stop         chan struct{}
	stopped      chan struct{} // by the writer
	watched      chan struct{} // by watchResident
	closeOnce    sync.Once
	closeErr     error

	// failure is the last commit that failed, if none of its size has succeeded since; see Ready.
	failure atomic.Pointer[failure]
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

	db := &DB{
		path:      path,
		opts:      opts,
		log:       opts.Logger.With("database", path),
		lazyDelay: opts.LazyDelay,
		spare:     newSpares(),
		urgent:    make(chan *request, maxBatch),
		lazy:      make(chan *request, maxBatch),
		stop:      make(chan struct{}),
		stopped:   make(chan struct{}),
		watched:   make(chan struct{}),
	}
	if err := db.openPath(ctx); err != nil {
		return nil, err
	}
	go db.write()
	go db.watchResident()
	return db, nil
}

// Path returns the file's path as it was given to Open.
func (db *DB) Path() string { return db.path }

// Incarnation names this file among all files with the same history, in 16 hexadecimal digits: it is drawn when the file
// is made, and drawn anew in a copy by Backup. What is named by it and a number that the file counts is named once and for
// all, also after a backup was put back.
func (db *DB) Incarnation() string { return hex.EncodeToString(db.incarnation) }

// View runs fn on a consistent snapshot. Bytes that fn sees are valid only until it returns. A long fn keeps the space
// of what is deleted meanwhile from being used again. fn must not call View.
//
// A damaged page, of which bbolt and the system know no better than to panic, is ErrDamaged.
func (db *DB) View(fn func(tx *Tx) error) (err error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.openErr != nil {
		return db.openErr
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db.log.Error("panic while reading", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: panic while reading: %v", ErrDamaged, p)
		}
	}()
	tx, err := db.bolt.Begin(false)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	return fn(&Tx{tx: tx})
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
	db.copies.Add(1)
	defer db.copies.Add(-1)
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = db.View(func(tx *Tx) error { _, err := tx.tx.WriteTo(f); return err })
	if err == nil {
		err = renewIncarnation(f.Name())
	}
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
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	return err
}

// renewIncarnation makes a copy's history its own. Who goes on with it may count what the original counts otherwise.
func renewIncarnation(path string) error {
	bolt, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	return errors.Join(bolt.Update(newIncarnation), bolt.Close())
}

// Close waits for the writes that were already taken, then closes the file. Later calls return the same.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.stop)
		<-db.stopped
		<-db.watched
		db.mu.Lock()
		defer db.mu.Unlock()
		if db.openErr != nil {
			return
		}
		if err := db.bolt.Close(); err != nil {
			db.closeErr = fmt.Errorf("close database %s: %w", db.Path(), err)
		}
	})
	return db.closeErr
}
