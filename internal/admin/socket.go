package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// dialTimeout is how long a process behind a socket has to take a connection.
const dialTimeout = 2 * time.Second

// checkPathLength answers what the system would only call an invalid argument: a socket's address has a fixed size.
func checkPathLength(path string) error {
	if longest := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > longest {
		return fmt.Errorf("socket %s: its path has %d bytes, the system allows %d; choose a shorter --data-dir", path, len(path), longest)
	}
	return nil
}

// maxConnections bounds the connections that are open at once, to each of the listeners.
const maxConnections = 256

// listenUnix returns a listener on a new socket at path with mode 0600, which takes connections of this process's user
// and of root only, whatever becomes of the file's mode. A socket that nobody serves any more is
// replaced; one that somebody serves, and anything that is not a socket, is refused.
func listenUnix(ctx context.Context, path string, log *slog.Logger) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s exists and is not a socket; remove it", path)
	default:
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		if err == nil {
			holder := "another process"
			if peer, err := access.PeerOf(conn); err == nil {
				holder = peer.Process.String()
			}
			return nil, errors.Join(fmt.Errorf("socket %s is served by %s", path, holder), conn.Close())
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("socket %s exists, and who serves it cannot be told: %w", path, err)
		}
	}

	// The socket comes into being inside a directory of our own, so that nobody can reach it before its mode stands,
	// whatever the umask; the rename then replaces a dead one in one step.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// The umask may have taken bits away that the owner needs.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	private := filepath.Join(dir, "s")
	if err := checkPathLength(private); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(private, 0o600), os.Rename(private, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return access.NewListener(l, access.Options{MaxConnections: maxConnections, Name: path, Logger: log}), nil
}
