package component

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o600
	folderMode = 0o700
	// folderPatience is how often a folder that another process holds is tried again. It is held for as long as it takes
	// to bind a socket.
	folderPatience = 10 * time.Millisecond
)

// InUseError refuses a socket path at which another process listens.
type InUseError struct {
	Path   string
	Holder string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("socket %s is in use by %s", e.Path, e.Holder)
}

// socket is a listening Unix socket and the file that it is reached by.
type socket struct {
	net.Listener
	path string
	file os.FileInfo
}

// listenAt makes the socket at path, mode 0600, in a folder that it creates (mode 0700) if it is missing. A socket file
// at which nobody listens any more is replaced; a live one is an InUseError.
func listenAt(ctx context.Context, path string) (*socket, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes: at most %d are allowed; choose a shorter socket folder or name", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return nil, fmt.Errorf("create socket folder: %w", err)
	}
	unlock, err := lockFolder(ctx, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}

	config := net.ListenConfig{Control: privateFromBirth}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s := &socket{Listener: l, path: path}
	// The umask may have taken bits away that the owner needs.
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("protect socket: %w", err), l.Close(), os.Remove(path))
	}
	if s.file, err = os.Lstat(path); err != nil {
		return nil, errors.Join(fmt.Errorf("look at socket: %w", err), l.Close())
	}
	return s, nil
}

// lockFolder keeps two processes that start at once from taking each other's fresh socket for a stale one.
func lockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock socket folder: %w", err)
	}
	again := time.NewTicker(folderPatience)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock socket folder %s: %w", dir, err), f.Close())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock socket folder %s, which another process holds: %w", dir, ctx.Err()), f.Close())
		}
	}
}

// removeStale makes room at path, unless someone listens there or it is no socket at all.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket: remove it, or choose another socket folder or name", path)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		holder := peerOf(conn).String()
		return errors.Join(&InUseError{Path: path, Holder: holder}, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove stale socket: %w", err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("find out whether somebody listens on socket %s: %w", path, err)
	}
}

// ours says whether the file at the path is still this socket's.
func (s *socket) ours() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.file)
}

// remove takes the file away, if it is still ours, so that a sidecar that starts later does not wait at a dead socket.
func (s *socket) remove(ctx context.Context) error {
	unlock, err := lockFolder(ctx, filepath.Dir(s.path))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer unlock()
	if !s.ours() {
		return nil
	}
	if err := os.Remove(s.path); err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}
