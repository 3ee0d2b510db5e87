package component

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

func TestSocketIsPrivateWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		t.Run(fmt.Sprintf("%#o", umask), func(t *testing.T) {
			dir := shortDir(t)
			before := syscall.Umask(umask)
			defer syscall.Umask(before)
			// The folder is made beforehand where the umask would lock us out of it.
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "s"), 0o700))
			require.NoError(t, os.Chmod(filepath.Join(dir, "s"), 0o700))
			s, err := listenAt(t.Context(), filepath.Join(dir, "s", "bolt.sock"), socketAccess{Options: access.Options{Logger: slog.Default()}})
			require.NoError(t, err)
			defer s.Close()
			require.Equal(t, os.FileMode(socketMode), s.file.Mode().Perm())
			require.Equal(t, umask, syscall.Umask(umask), "the umask must stay as it was")
		})
	}
}

func TestListenMakesThePrivateFolder(t *testing.T) {
	h := newHouse(t)
	info, err := os.Stat(filepath.Dir(h.server.SocketPath()))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(folderMode), info.Mode().Perm())
}

func TestListenRefusesALiveSocketAndNamesItsHolder(t *testing.T) {
	h := newHouse(t)
	_, err := Listen(t.Context(), Options{SocketDir: filepath.Join(h.dir, "s"), Backend: h.manager})
	require.ErrorContains(t, err, fmt.Sprintf("socket %s is in use by process %d (", h.server.SocketPath(), os.Getpid()))
	require.NoError(t, h.server.Ready(), "the one who was there must not be harmed")
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	h := newHouse(t, func(h *house) {
		require.NoError(t, os.Mkdir(filepath.Join(h.dir, "s"), 0o700))
		staleSocket(t, filepath.Join(h.dir, "s", "bolt.sock"))
	})
	require.NoError(t, h.store("a").set("k", "v"))
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "bolt.sock")
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err := Listen(t.Context(), Options{SocketDir: dir})
	require.ErrorContains(t, err, "is not a socket")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(data))
}

func TestListenRefusesBadNames(t *testing.T) {
	_, err := Listen(t.Context(), Options{SocketDir: "/" + strings.Repeat("x", 200)})
	require.ErrorContains(t, err, "choose a shorter socket folder")
	_, err = Listen(t.Context(), Options{Name: "../x", SocketDir: shortDir(t)})
	require.ErrorContains(t, err, `invalid name "../x"`)
}

// Whoever can open the folder can lock it.
func TestListenDoesNotWaitForAStrangersLock(t *testing.T) {
	dir := shortDir(t)
	stranger, err := os.Open(dir)
	require.NoError(t, err)
	defer stranger.Close()
	require.NoError(t, syscall.Flock(int(stranger.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Listen(ctx, Options{SocketDir: dir})
	require.NoError(t, err)
	require.NoError(t, s.Stop(ctx))
}

func TestAFolderOfSomebodyElseIsNamed(t *testing.T) {
	dir := shortDir(t)
	var log bytes.Buffer
	info, err := os.Stat(dir)
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	owner.Uid = 52001
	warnOfOwner(dir, info, slog.New(slog.NewTextHandler(&log, nil)))
	require.Contains(t, log.String(), "belongs to another user")
	require.Contains(t, log.String(), "owner=52001")
}

func TestStopRemovesTheSocketUnlessItIsAnothers(t *testing.T) {
	h := newHouse(t)
	path := h.server.SocketPath()
	h.stop()
	require.NoFileExists(t, path)

	h.start()
	require.NoError(t, os.Remove(path))
	staleSocket(t, path)
	require.ErrorContains(t, h.server.Ready(), "belongs to another process")
	h.stop()
	require.FileExists(t, path)
}

func TestStopBeforeServe(t *testing.T) {
	dir := shortDir(t)
	s, err := Listen(t.Context(), Options{SocketDir: dir})
	require.NoError(t, err)
	require.Error(t, s.Ready())
	require.NoError(t, s.Stop(t.Context()))
	require.NoFileExists(t, s.SocketPath())
	require.NoError(t, s.Serve())
	require.ErrorIs(t, s.Ready(), ErrStopping)
}
