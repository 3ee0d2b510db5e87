package boltdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// ErrUnsound refuses to restore a copy that is damaged.
var ErrUnsound = errors.New("the copy is damaged")

// Restore puts the copy of a database at backup in the place of the database file at path, which no process may have open
// and which may be missing: then the new one belongs to whom the folder does. The copy is checked first, with records as in
// Check, and stays. What was at path is kept, with its log if it has one, at the path that is returned; "": there was nothing.
// The restored file has an incarnation of its own.
func Restore(ctx context.Context, backup, path string, records func(tx *Tx, problem func(error)) error) (kept string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore database: %w", err)
		}
	}()
	var problems []error
	if err := Check(ctx, backup, func(p error) { problems = append(problems, p) }, records); err != nil {
		return "", err
	}
	if len(problems) > 0 {
		return "", fmt.Errorf("%w: %s: %w", ErrUnsound, backup, problems[0])
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	// Whatever state it is in, nobody may use it now. One that is missing is made, so that there is one to lock.
	_, missing := os.Stat(path)
	old, err := lockFile(ctx, path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if errors.Is(missing, fs.ErrNotExist) {
		if err := belongLike(old, filepath.Dir(path)); err != nil {
			return "", err
		}
	}
	like, err := old.Stat()
	if err != nil {
		return "", err
	}
	err = makeNext(path, like, func(f *os.File) error {
		src, err := os.Open(backup)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, src)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
		return makeOwn(f.Name(), newNames(), newOverlay())
	})
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path + logSuffix); like.Size() > 0 || err == nil {
		if kept, err = keep(path); err != nil {
			return "", errors.Join(err, os.Remove(nextPath(path)))
		}
	}
	return kept, putInPlace(path)
}

// keep gives the file at path, and its log, another name. The file keeps this one, too, until another takes it.
func keep(path string) (kept string, err error) {
	kept = path + ".replaced-" + time.Now().UTC().Format("20060102T150405.000000")
	if err := os.Link(path, kept); err != nil {
		return "", err
	}
	if err := os.Rename(path+logSuffix, kept+logSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(kept))
	}
	return kept, durable.SyncDir(filepath.Dir(path))
}
