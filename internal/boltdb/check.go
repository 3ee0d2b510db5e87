package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Check reads every page of the database file at path, which no process may have open, changes nothing, and calls
// problem for everything that is damaged: pages first, and if all of them are sound, why Open would refuse the file, such as
// a log that is missing, or else what records finds, which is to look at what the buckets hold (nil: nobody does). Checks can
// run side by side, and a file that cannot be written can be checked. The error is for when the file could not be read, such
// as ErrLocked.
func Check(ctx context.Context, path string, problem func(error), records func(tx *Tx, problem func(error)) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("check database: %w", err)
		}
	}()
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	if info.Size() == 0 {
		problem(fmt.Errorf("%w: the file is empty", ErrFormat))
		return nil
	}
	if err := recoverFile(ctx, path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := lock(ctx, f, unix.LOCK_SH); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	sound, err := checkPages(ctx, f, problem)
	if err != nil || !sound {
		return err
	}
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return errors.Join(db.View(func(tx *bbolt.Tx) error {
		if _, _, err := readFormat(tx); err != nil {
			problem(err)
			return nil
		}
		state, err := readLogState(tx)
		if state != nil {
			err = errNoLog
		}
		if err != nil {
			problem(err)
			return nil
		}
		if records == nil {
			return nil
		}
		reader := &Tx{}
		reader.start(tx, nil, nil)
		return records(reader, problem)
	}), db.Close())
}

// checkPages reports whether all pages are sound, and calls problem for what is not.
func checkPages(ctx context.Context, f *os.File, problem func(error)) (sound bool, err error) {
	m, _, err := newestState(f)
	if errors.Is(err, ErrFormat) {
		problem(err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sound = true
	verify(untilDone{ctx, f}, m, func(found error) bool {
		if ctx.Err() == nil {
			sound = false
			problem(found)
		}
		return ctx.Err() == nil
	})
	return sound, context.Cause(ctx)
}

// untilDone is a file that cannot be read any more when ctx has ended.
type untilDone struct {
	ctx context.Context
	io.ReaderAt
}

func (r untilDone) ReadAt(b []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(b, at)
}

// recoverFile makes a file that was not closed cleanly whole without its log.
func recoverFile(ctx context.Context, path string) error {
	if _, err := os.Stat(path + logSuffix); err != nil {
		return nil
	}
	db, err := Open(ctx, path, Options{})
	if err != nil {
		return err
	}
	return db.Close()
}
