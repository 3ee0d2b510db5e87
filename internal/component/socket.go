package component

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

const (
	socketMode = 0o600
	folderMode = 0o700
	// What others get who are let in: groupMode a group's members, everybodyMode whom the policy chooses among all.
	groupMode, groupFolderMode         = 0o660, 0o750
	everybodyMode, everybodyFolderMode = 0o666, 0o755
)

// maxSocketPath is what sockaddr_un holds beside the NUL at its end (unix(7)).
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// socket is a listening Unix socket and the file that it is reached by.
type socket struct {
	net.Listener
	path string
	file os.FileInfo
}

// socketAccess says who can reach a socket; the zero value: its owner and root.
type socketAccess struct {
	// gid is the socket's group, whose members may connect; nil: nobody but the owner.
	gid *int
	access.Options
}

// modes of the socket's file, and of its folder where that is made for it. A member of a group, or a user, is let in by
// the policy, which the permissions must not stand in the way of.
func (a *socketAccess) modes() (file, folder os.FileMode) {
	switch {
	case len(a.Policy.UIDs) > 0 || len(a.Policy.GIDs) > 0:
		return everybodyMode, everybodyFolderMode
	case a.gid != nil:
		return groupMode, groupFolderMode
	default:
		return socketMode, folderMode
	}
}

// listenAt makes the socket at path, mode 0600 unless access says otherwise, in a folder that it creates (mode 0700,
// likewise) if it is missing. A socket file at which nobody listens any more is replaced; a live one is an error.
func listenAt(ctx context.Context, path string, allowed socketAccess) (*socket, error) {
	if err := allowed.Policy.Check(); err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes: at most %d are allowed; choose a shorter socket folder or name", path, len(path), maxSocketPath)
	}
	if err := makeFolder(filepath.Dir(path), allowed); err != nil {
		return nil, fmt.Errorf("create socket folder: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}

	// Until its mode is set, the policy keeps out who connects.
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("listen on socket %s: %w: the user who runs dapr-bolt may not write its folder; choose another socket folder", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	mode, _ := allowed.modes()
	options := allowed.Options
	if allowed.gid != nil {
		options.Policy.GIDs = append(slices.Clone(options.Policy.GIDs), uint32(*allowed.gid))
		if err := os.Chown(path, -1, *allowed.gid); err != nil {
			return nil, errors.Join(fmt.Errorf("give the socket to group %d: %w", *allowed.gid, err), l.Close(), os.Remove(path))
		}
	}
	s := &socket{Listener: access.NewListener(l, options), path: path}
	// The umask may have taken bits away that the owner needs.
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("protect socket: %w", err), l.Close(), os.Remove(path))
	}
	if s.file, err = os.Lstat(path); err != nil {
		return nil, errors.Join(fmt.Errorf("look at socket: %w", err), l.Close())
	}
	return s, nil
}

// makeFolder makes the folder as accessible as the socket is to be. One that is there is left as it is.
func makeFolder(dir string, allowed socketAccess) error {
	info, err := os.Stat(dir)
	if err == nil {
		warnOfOwner(dir, info, allowed.Logger)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), everybodyFolderMode); err != nil {
		return err
	}
	_, mode := allowed.modes()
	err = os.Mkdir(dir, folderMode)
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody else was faster
	}
	if err == nil && allowed.gid != nil {
		err = os.Chown(dir, -1, *allowed.gid)
	}
	if err == nil {
		err = os.Chmod(dir, mode) // whatever the umask
	}
	return err
}

// warnOfOwner logs that a folder belongs to another user, who can take its sockets away and put others in their place.
func warnOfOwner(dir string, info os.FileInfo, log *slog.Logger) {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		log.Warn("the folder of the sockets belongs to another user, who can replace what is in it", "folder", dir, "owner", owner.Uid)
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
		peer, _ := access.PeerOf(conn)
		return errors.Join(fmt.Errorf("socket %s is in use by %s", path, peer.Process), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		// Not one that another process has just put in its place.
		stale := socket{path: path, file: info}
		return stale.remove()
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("find out whether somebody listens on socket %s: %w", path, err)
	}
}

// ours reports whether the file at the path is still this socket's.
func (s *socket) ours() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.file)
}

// remove takes the file away, if it is still ours, so that a sidecar that starts later does not wait at a dead socket.
func (s *socket) remove() error {
	if !s.ours() {
		return nil
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}
