package boltdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockPatience is how long Check and Compact wait for a process that is just letting go of the file.
const lockPatience = time.Second

// Check reads every page of the database file at path, which no process may have open, changes nothing, and calls
// problem for everything that is damaged: pages first, and if all of them are sound, what records finds, which is to look
// at what the buckets hold (nil: nobody does). The error is for when the file could not be read, such as ErrLocked.
//
// bbolt trusts what it reads. A damaged file can make this call report the consequences of one bad number by the
// billion, or end the process with a fault that no code can recover: whoever must survive that runs Check in a process
// of its own.
func Check(ctx context.Context, path string, problem func(error), records func(tx *Tx, problem func(error)) error) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("check database: %s is not a file", path)
	}
	if info.Size() == 0 {
		problem(fmt.Errorf("%w: the file is empty", ErrFormat))
		return nil
	}
	if err := recoverFile(ctx, path); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	db, err := openReadOnly(ctx, path)
	if errors.Is(err, ErrFormat) {
		problem(err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			// Reading past the end would be a fault, not an error.
			problem(fmt.Errorf("the file is cut short: it has %d bytes, its pages take %d", info.Size(), tx.Size()))
			return nil
		}
		sound := true
		for found := range tx.Check() {
			sound = false
			problem(found)
		}
		if !sound || records == nil {
			return nil
		}
		return records(&Tx{tx: tx}, problem)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("check database %s: %w", path, err)
	}
	return nil
}

// recoverFile makes a file that was not closed cleanly whole without its log.
func recoverFile(ctx context.Context, path string) error {
	if _, err := os.Stat(path + logSuffix); err != nil {
		return nil
	}
	db, err := Open(ctx, path, Options{LockTimeout: lockPatience})
	if err != nil {
		return err
	}
	return db.Close()
}

// openReadOnly takes a shared lock: checks can run side by side, and a file that cannot be written can be checked.
func openReadOnly(ctx context.Context, path string) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%w: %v", ErrFormat, p)
		}
	}()
	db, err = bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockPatience, PreLoadFreelist: false})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, heldBy(ctx, path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return db, err
}

// heldBy returns boltdb's error for a locked file, which names the process that holds it.
func heldBy(ctx context.Context, path string) error {
	db, err := Open(ctx, path, Options{LockTimeout: time.Millisecond})
	if err != nil {
		return err
	}
	return errors.Join(fmt.Errorf("open database %s: %w by a process that has just ended; try again", path, ErrLocked), db.Close())
}
