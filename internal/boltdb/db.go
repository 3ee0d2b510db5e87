// Package boltdb keeps one bbolt file and a log beside it. It gathers concurrent writers into shared transactions, each of
// which is one record of the log and one sync. What is written lies over the file, in memory, until a checkpoint brings it
// there. After a crash, the log says what lies over the file.
package boltdb

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

var (
	// ErrClosed answers every call on a DB after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrLocked means that another process has the file open; the error's text names it where the system tells.
	ErrLocked = errors.New("the database file is in use")
	// ErrFormat means that the file is not one that this build can read.
	ErrFormat = errors.New("not a database file of this version")
	// ErrUnsure means that a write has failed, and that the disk fails to take back what is on it of the write. As long as
	// the process lives, it has not taken place; whether it has after a crash nobody knows.
	ErrUnsure = errors.New("the disk fails, and if the process ends before it works again, the write may have taken place")
	// ErrDamaged means that a call met what cannot be.
	ErrDamaged = errors.New("the database file is damaged (dapr-bolt check says where), or this is a bug")
)

// Options for Open; the zero value is the documented default.
type Options struct {
	// Logger hears of panics in functions that read or write. Default: slog.Default().
	Logger *slog.Logger
	// DeferredDelay is how long UpdateDeferred may wait for a commit to ride along with. Default: 2ms; negative: not at all.
	DeferredDelay time.Duration
	// Committed hears of each commit: how long it took, its sync included, and its bytes in the log. Default: nobody does.
	Committed func(took time.Duration, bytes int)

	// The rest is for tests.
	areaSize, checkpointBytes, checkpointStep int64
	checkpointEvery                           time.Duration
	// wrap stands between this package and a file that it has opened, and opened sees bbolt before it is used.
	wrap   func(f *os.File) file
	opened func(bolt *bbolt.DB)
	// link is os.Link.
	link func(from, to string) error
}

func (o *Options) setDefaults() {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.DeferredDelay = cmp.Or(o.DeferredDelay, 2*time.Millisecond)
	if o.Committed == nil {
		o.Committed = func(time.Duration, int) {}
	}
	o.areaSize = cmp.Or(o.areaSize, areaSize)
	o.checkpointBytes = cmp.Or(o.checkpointBytes, checkpointBytes)
	o.checkpointStep = cmp.Or(o.checkpointStep, checkpointStep)
	o.checkpointEvery = cmp.Or(o.checkpointEvery, checkpointEvery)
	if o.wrap == nil {
		o.wrap = func(f *os.File) file { return osFile{f} }
	}
	if o.opened == nil {
		o.opened = func(*bbolt.DB) {}
	}
	if o.link == nil {
		o.link = os.Link
	}
}

// osFile is a file of the system.
type osFile struct{ *os.File }

// Allocate implements file.
func (f osFile) Allocate(from, to int64) error { return allocate(f.File, from, to) }

// Sync implements file.
func (f osFile) Sync() error { return datasync(f.File) }

// DB is one open file. All methods may be called from any goroutine.
type DB struct {
	path string
	opts Options
	log  *slog.Logger
	// ctx ends with Close.
	ctx    context.Context
	cancel context.CancelFunc

	// mu is held by readers, and by the writer while it opens the file anew; see recover.
	mu   sync.RWMutex
	bolt *bbolt.DB
	// disk is bolt's own handle, for what is done beside it.
	disk file
	// openErr says why there is no open file, such as ErrClosed; nil: there is one.
	openErr error
	// incarnation stays as it is as long as the file is open.
	incarnation []byte

	// overlay lies over the file. show is held while one is put in place of another that the file has caught up with: whoever
	// begins to read must not see one of before a checkpoint over a file of after the next one.
	show    sync.RWMutex
	overlay atomic.Pointer[overlay]
	names   *names

	// The rest belongs to the writer. wal is nil while the file is whole without it.
	wal *wal
	cp  checkpoint
	rec recorder
	// base is a transaction that reads the file as the last checkpoint has left it, and stored are cursors over buckets of it by
	// number.
	base   *bbolt.Tx
	stored map[uint32]*bbolt.Cursor
	// fills says how full the next checkpoint makes the pages of buckets.
	fills map[uint32]float64
	// uncertain: what is known of the file in memory may differ from the disk. unrevoked: so may what is known of the log.
	uncertain, unrevoked bool
	// tight: the last checkpoint found no room.
	tight bool
	// mapped is how much of the file has room in its mapping, in bytes.
	mapped int64
	// fileSize is how much of the file is used, and allocated how much the disk has room for, in bytes.
	fileSize, allocated int64
	// batchTimer ends the time that deferred writes wait for others.
	batchTimer *time.Timer

	queue     chan *request
	tasks     chan func()
	stop      chan struct{}
	stopped   chan struct{} // by the writer
	closeOnce sync.Once
	closeErr  error

	counters counters
	// failure is the last commit that failed, if none of its size has succeeded since; see Ready.
	failure atomic.Pointer[failure]
	// opened is the file that is open, and openedLog its log, nil while there is none; see Ready.
	opened, openedLog atomic.Pointer[os.FileInfo]
	// damage is the first that was met since the file was opened.
	damage atomic.Pointer[error]
}

// Open opens the file at path, creates it (mode 0600) if it is missing, and starts its writer. The directory must
// exist. A file that was not closed cleanly is recovered from the log beside it. The caller must Close the DB.
//
// Errors: ErrLocked when another process holds the file, ErrFormat when it is not a file of this format or of a newer
// version (it is left as it was), and the system's errors.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	opts.setDefaults()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	db := &DB{
		path:    path,
		opts:    opts,
		log:     opts.Logger.With("database", path),
		queue:   make(chan *request, maxBatch),
		tasks:   make(chan func()),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	if err := db.open(ctx); err != nil {
		return nil, err
	}
	db.ctx, db.cancel = context.WithCancel(context.Background())
	go db.write()
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
func (db *DB) View(fn func(tx *Tx) error) error {
	return db.viewFile(func(base *bbolt.Tx, over *overlay) error {
		tx := &Tx{}
		tx.start(base, db.names, over)
		defer func() { db.counters.read.Add(tx.read) }()
		return fn(tx)
	})
}

// viewFile is View of the file and of what lies over it.
func (db *DB) viewFile(fn func(base *bbolt.Tx, over *overlay) error) (err error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.openErr != nil {
		return db.openErr
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = db.panicked("while reading", p)
		}
	}()
	base, over, err := db.snapshot()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Rollback()) }()
	return fn(base, over)
}

// snapshot is what a reader sees: the file, and what lies over it.
func (db *DB) snapshot() (*bbolt.Tx, *overlay, error) {
	db.show.RLock()
	defer db.show.RUnlock()
	// In this order: what a checkpoint brings into the file from now on lies over it, too.
	base, err := db.bolt.Begin(false)
	return base, db.overlay.Load(), err
}

// Size returns the length of the file in bytes; 0: it was removed, as Ready says.
func (db *DB) Size() (int64, error) { return length(db.path) }

// LogSize returns the length of the log beside the file in bytes; 0: there is none.
func (db *DB) LogSize() (int64, error) {
	return length(db.path + logSuffix)
}

func length(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Close waits for the writes that were already taken, makes the file whole without its log, and closes it. An error means
// that the log stays, from which the next Open recovers the file. Later calls return the same.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.stop)
		<-db.stopped
		if err := db.endLog(); err != nil {
			db.closeErr = fmt.Errorf("close database %s: %w", db.path, err)
		}
		db.cancel()
		db.mu.Lock()
		defer db.mu.Unlock()
		db.release()
		db.openErr = ErrClosed
	})
	return db.closeErr
}
