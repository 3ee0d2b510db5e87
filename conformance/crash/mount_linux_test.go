package crash

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountOrSkip shows the disk at a folder until the returned function is called, or says why it cannot.
func mountOrSkip(t *testing.T, disk *Disk, folder string) (unmount func() error) {
	t.Helper()
	unmount, err := disk.Mount(folder)
	if err != nil {
		t.Skip(noPower, err)
	}
	return unmount
}

func TestMountedDiskForgetsWhatWasNotSynced(t *testing.T) {
	disk, folder := NewDisk(1), t.TempDir()
	unmount := mountOrSkip(t, disk, folder)
	f, err := os.OpenFile(filepath.Join(folder, "file"), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("synced"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	syncFolder(t, folder)

	_, err = f.WriteAt([]byte("SYNCED"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())

	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	other, err := os.Open(filepath.Join(folder, "file"))
	require.NoError(t, err)
	require.ErrorIs(t, unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	require.NoError(t, other.Close())

	require.NoError(t, os.Link(filepath.Join(folder, "file"), filepath.Join(folder, "linked")))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "below"), 0o700))
	require.NoError(t, os.Rename(filepath.Join(folder, "linked"), filepath.Join(folder, "below", "moved")))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	content, err := os.ReadFile(filepath.Join(folder, "below", "moved"))
	require.NoError(t, err)
	require.Equal(t, "SYNCED", string(content))
	require.NoError(t, f.Truncate(3*page))

	disk.FailWithin(1, 1, syscall.ENOSPC)
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	require.NoError(t, unmount())

	disk.CutNow()
	disk.Release()
	disk.Cut()
	unmount = mountOrSkip(t, disk, folder)
	content, err = os.ReadFile(filepath.Join(folder, "file"))
	require.NoError(t, err)
	require.Equal(t, "SYNCED", string(content[:6]))
	require.NoError(t, unmount())
}

func syncFolder(t *testing.T, folder string) {
	t.Helper()
	d, err := os.Open(folder)
	require.NoError(t, err)
	require.NoError(t, d.Sync())
	require.NoError(t, d.Close())
}
