package performance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// BareKeeper is a way in which the bare server keeps things.
type BareKeeper string

const (
	// BareLog writes one after the other to a file that is as long as it gets, and syncs once: the least that any store
	// can do. Nothing can be found there again.
	BareLog BareKeeper = "log"
	// BareBolt puts into one bucket of a bbolt file: the least that a store on bbolt can do.
	BareBolt BareKeeper = "bbolt"
)

// bareKeeper returns from keep once all entries are on disk.
type bareKeeper interface {
	keep(entries []bareEntry) error
	io.Closer
}

// bareFinder is a keeper that can find a value again. It copies what it returns; nil: there is none.
type bareFinder interface {
	find(key []byte) ([]byte, error)
}

type bareEntry struct {
	key, value []byte
	remove     bool
	// kept hears how it went; nil: nobody waits.
	kept chan error
}

func bareEventKey(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte("event "), n) }

func openBareKeeper(k BareKeeper, path string) (bareKeeper, error) {
	switch k {
	case BareLog:
		file, err := newDiskFile(path)
		if err != nil {
			return nil, err
		}
		return &bareFile{File: file}, nil
	case BareBolt:
		return openBareBolt(path)
	default:
		return nil, fmt.Errorf("keeper %q: only %s and %s are known", k, BareLog, BareBolt)
	}
}

// bareFile writes from the start again when its file is full.
type bareFile struct {
	*os.File
	at     int64
	buffer []byte
}

func (f *bareFile) keep(entries []bareEntry) error {
	f.buffer = f.buffer[:0]
	for _, e := range entries {
		f.buffer = append(append(f.buffer, e.key...), e.value...)
	}
	if f.at+int64(len(f.buffer)) > diskFile {
		f.at = 0
	}
	n, err := f.WriteAt(f.buffer, f.at)
	f.at += int64(n)
	return errors.Join(err, dataSync(f.File))
}

type bareBolt struct{ *bbolt.DB }

var bareBucket = []byte("bare")

func openBareBolt(path string) (bareBolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoStatistics: true})
	if err != nil {
		return bareBolt{}, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bareBucket)
		return err
	})
	if err != nil {
		return bareBolt{}, errors.Join(err, db.Close())
	}
	return bareBolt{db}, nil
}

func (b bareBolt) keep(entries []bareEntry) error {
	return b.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bareBucket)
		for _, e := range entries {
			if e.remove {
				if err := bucket.Delete(e.key); err != nil {
					return err
				}
			} else if err := bucket.Put(e.key, e.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b bareBolt) find(key []byte) (value []byte, err error) {
	err = b.View(func(tx *bbolt.Tx) error {
		value = bytes.Clone(tx.Bucket(bareBucket).Get(key))
		return nil
	})
	return value, err
}

// bareWriter gives its keeper whatever waits, in one go.
type bareWriter struct {
	keeper bareKeeper
	// wake holds a token while somebody waits.
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pending []bareEntry
}

// lazyEntries are written after so long at the latest.
const lazyEntries = 5 * time.Millisecond

func newBareWriter(keeper bareKeeper) *bareWriter {
	w := &bareWriter{keeper: keeper, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// write returns once the entry is kept. It must not be called after Close.
func (w *bareWriter) write(e bareEntry) error {
	e.kept = make(chan error, 1)
	w.writeLazily(e)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return <-e.kept
}

// writeLazily lets the entry be kept with somebody else's.
func (w *bareWriter) writeLazily(e bareEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, e)
}

func (w *bareWriter) run() {
	defer close(w.done)
	lazy := time.NewTicker(lazyEntries)
	defer lazy.Stop()
	var entries []bareEntry
	for stopping := false; !stopping; {
		select {
		case <-w.wake:
		case <-lazy.C:
		case <-w.stop:
			stopping = true
		}
		entries = w.gather(entries[:0])
		if len(entries) == 0 {
			continue
		}
		err := w.keeper.keep(entries)
		for _, e := range entries {
			if e.kept != nil {
				e.kept <- err
			}
		}
		clear(entries)
	}
}

// gather lets those who are about to come do so first, as dapr-bolt's writer does.
func (w *bareWriter) gather(entries []bareEntry) []bareEntry {
	for before := -1; before != len(entries); {
		before = len(entries)
		runtime.Gosched()
		w.mu.Lock()
		entries = append(entries, w.pending...)
		clear(w.pending)
		w.pending = w.pending[:0]
		w.mu.Unlock()
	}
	return entries
}

// Close keeps what is pending first.
func (w *bareWriter) Close() error {
	close(w.stop)
	<-w.done
	return w.keeper.Close()
}
