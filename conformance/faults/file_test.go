package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A process does not come up on a file that it cannot use, says why, and leaves it as it was.
func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Name: "first"})
	require.NoError(t, e.store(b).Set(t.Context(), "k", make([]byte, 100<<10)))
	path := filepath.Join(b.DataDir, "dapr.db")

	said := e.refuses(harness.BoltOptions{SocketDir: e.Dir("elsewhere")})
	require.Contains(t, said, path+": the database file is in use by process "+fmt.Sprint(b.PID()))
	got, err := e.store(b).Get(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, got, 100<<10, "the first process is as well as before")

	require.NoError(t, b.Stop())
	sound, err := os.ReadFile(path)
	require.NoError(t, err)
	page := os.Getpagesize()
	with := func(change func(raw []byte) []byte) []byte { return change(bytes.Clone(sound)) }
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"a newer version":   {with(func(raw []byte) []byte { return newer(t, raw) }), "it was written by a newer dapr-bolt: it has format 9, this build reads up to format "},
		"cut short":         {sound[:20*page], "cut short: it has 81920 bytes, its pages take "},
		"flipped bits":      {with(func(raw []byte) []byte { raw[40] ^= 1; raw[page+40] ^= 1; return raw }), "damaged: both of the pages"},
		"not a bbolt file":  {[]byte("SQLite format 3"), "it is no bbolt file"},
		"zeros for content": {make([]byte, len(sound)), "it is no bbolt file"},
	} {
		require.NoError(t, os.WriteFile(path, test.raw, 0o600))
		said := e.refuses(harness.BoltOptions{})
		require.Contains(t, said, path, name)
		require.Contains(t, said, test.want, name)
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(test.raw, raw), "%s: the file was changed", name)
	}
	require.NoError(t, os.WriteFile(path, sound, 0o600))
	require.NoError(t, b.Restart(t.Context()))
	got, err = e.store(b).Get(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, got, 100<<10)
}

// What is written to a file that has lost its name is gone with the process.
func TestAFileThatIsRemovedOrReplacedIsFoundOut(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	path := filepath.Join(b.DataDir, "dapr.db")
	require.NoError(t, os.Rename(path, path+".away"))
	e.readyz(b, 503, path+" was removed or replaced")
	require.NoError(t, os.WriteFile(path, []byte("a backup"), 0o600))
	e.readyz(b, 503, path+" was removed or replaced")
	require.NoError(t, os.Rename(path+".away", path))
	e.readyz(b, 200, "ok")
}

// newer changes the version in the file, which stands behind the name of its bucket and of its key.
func newer(t *testing.T, raw []byte) []byte {
	t.Helper()
	found := 0
	key := append([]byte("version"), make([]byte, 7)...)
	for at := bytes.Index(raw, key); at >= 0; found++ {
		raw[at+len(key)] = 9
		next := bytes.Index(raw[at+1:], key)
		if next < 0 {
			found++
			break
		}
		at += 1 + next
	}
	require.Positive(t, found)
	return raw
}

// Backups that are taken in the middle of writes open, are sound, and hold what was acknowledged before they began.
func TestBackupsUnderLoad(t *testing.T) {
	t.Parallel()
	const writers, backups = 4, 4
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	store, topics := e.store(b), e.pubsub(b, "publisher")
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range writers {
		running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				assert.NoError(t, store.Set(t.Context(), fmt.Sprintf("writer-%d-%d", i, n%500), bytes.Repeat([]byte("x"), n%3000)))
				assert.NoError(t, topics.Publish(t.Context(), "orders", fmt.Sprintf("%d-%d", i, n), make([]byte, n%3000)))
			}
		})
	}
	copies := make([]string, backups)
	for i := range copies {
		require.NoError(t, store.Set(t.Context(), fmt.Sprintf("before-backup-%d", i), []byte("x")))
		copies[i] = e.Dir(fmt.Sprintf("copy-%d.db", i))
		require.NoError(t, b.Command(t.Context(), nil, "backup", copies[i]))
	}
	close(stop)
	running.Wait()
	require.NoError(t, b.Stop())
	for i, path := range copies {
		require.NoError(t, b.Command(t.Context(), nil, "check", path))
		data := e.Dir(fmt.Sprintf("restored-%d", i))
		require.NoError(t, os.MkdirAll(data, 0o700))
		require.NoError(t, os.Rename(path, filepath.Join(data, "dapr.db")))
		restored := e.bolt(harness.BoltOptions{Name: fmt.Sprintf("restored-%d", i), DataDir: data})
		got, err := e.store(restored).Get(t.Context(), fmt.Sprintf("before-backup-%d", i))
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
		require.NoError(t, restored.Stop())
	}
}
