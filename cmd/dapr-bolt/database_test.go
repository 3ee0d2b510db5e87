package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

// atRest makes a database file in which little is left of what was once stored.
func atRest(t *testing.T, f folders) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(f.data, 0o700))
	path := filepath.Join(f.data, "dapr.db")
	db, err := boltdb.Open(t.Context(), path, boltdb.Options{})
	require.NoError(t, err)
	for round := range 2 {
		require.NoError(t, db.Update(t.Context(), func(tx *boltdb.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("values"))
			require.NoError(t, err)
			for i := range 2000 {
				key := fmt.Appendf(nil, "key-%d", i)
				if round == 0 {
					require.NoError(t, b.Put(key, make([]byte, 500)))
				} else if i > 10 {
					require.NoError(t, b.Delete(key))
				}
			}
			return nil
		}))
	}
	require.NoError(t, db.Close())
	return path
}

func TestBackupOfARunningProcess(t *testing.T) {
	p := start(t, newFolders(t))
	dir := t.TempDir()
	t.Chdir(dir)
	require.Contains(t, p.ok(t, "backup", "copy.db"), filepath.Join(dir, "copy.db"), "the path is relative to the caller")
	require.Contains(t, p.ok(t, "check", "copy.db"), "copy.db: sound")
	info, err := os.Stat("copy.db")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	got := shell{}.run(t, "backup", "copy.db", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "copy.db: file already exists; name a new file")
	got = shell{}.run(t, "backup", "other.db", "--database", "other", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `there is no database "other": there is dapr`)

	var result struct {
		Path string
		Size int64
	}
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "backup", "second.db", "--output", "json")), &result))
	require.Equal(t, filepath.Join(dir, "second.db"), result.Path)
	require.Positive(t, result.Size)
}

func TestCheckAndCompactRefuseAFileInUse(t *testing.T) {
	p := start(t, newFolders(t))
	for _, command := range []string{"check", "compact"} {
		got := shell{}.run(t, command, "--data-dir", p.data)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, fmt.Sprintf("in use by process %d", p.cmd.Process.Pid))
	}
	require.Equal(t, exitOK, shell{}.run(t, "health", "--data-dir", p.data).code)
}

func TestCompact(t *testing.T) {
	f := newFolders(t)
	path := atRest(t, f)
	got := shell{}.run(t, "compact", "--data-dir", f.data, "--output", "json")
	require.Equal(t, exitOK, got.code, got.stderr)
	var sizes compactResult
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &sizes))
	require.Equal(t, path, sizes.Path)
	require.Less(t, sizes.After, sizes.Before/4)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, info.Size(), sizes.After)
	got = shell{}.run(t, "compact", path, "--data-dir", f.data)
	require.Contains(t, got.stdout, "left as it is: a copy would not be smaller than its")
	got = shell{}.run(t, "compact", atRest(t, newFolders(t)), "--data-dir", f.data)
	require.Regexp(t, `dapr\.db: .* before, .* KiB after`, got.stdout)
	start(t, f).stop(t)
}

func TestRestore(t *testing.T) {
	p := start(t, newFolders(t))
	backup := filepath.Join(t.TempDir(), "copy.db")
	p.ok(t, "backup", backup)
	got := shell{}.run(t, "restore", backup, "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, fmt.Sprintf("in use by process %d", p.cmd.Process.Pid))
	p.stop(t)
	got = shell{}.run(t, "restore", backup, "--data-dir", p.data, "--output", "json")
	require.Equal(t, exitOK, got.code, got.stderr)
	var result restoreResult
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &result))
	require.FileExists(t, result.Kept)
	start(t, p.folders).stop(t)

	require.NoError(t, os.WriteFile(backup, []byte("no database"), 0o600))
	got = shell{}.run(t, "restore", backup, "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "the copy is damaged")
}

func TestCheck(t *testing.T) {
	check := func(path string) (result, checkReport) {
		t.Helper()
		got := shell{}.run(t, "check", path, "--data-dir", t.TempDir(), "--output", "json")
		var report checkReport
		if got.stdout != "" {
			require.NoError(t, json.Unmarshal([]byte(got.stdout), &report), got.stdout)
		}
		return got, report
	}
	sound := atRest(t, newFolders(t))
	got, report := check(sound)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, checkReport{Path: sound, Sound: true, Problems: []string{}}, report)

	raw, err := os.ReadFile(sound)
	require.NoError(t, err)
	page := os.Getpagesize()
	// The two meta pages point to the rest; what comes after them is overwritten.
	overwrite := func(text byte, from, to int) []byte {
		damaged := append([]byte(nil), raw...)
		for at := from; at < to; at++ {
			damaged[at] = text
		}
		return damaged
	}
	for name, damaged := range map[string][]byte{
		"zeros":            overwrite(0, 2*page, len(raw)/2),
		"ones":             overwrite(0xff, 2*page, len(raw)/2),
		"text":             overwrite('x', 2*page, len(raw)/2),
		"cut short":        raw[:3*page],
		"no meta page":     overwrite(0, 0, 2*page),
		"less than a page": raw[:100],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "damaged.db")
			require.NoError(t, os.WriteFile(path, damaged, 0o600))
			got, report := check(path)
			require.Equal(t, exitFailure, got.code, got.stdout)
			require.False(t, report.Sound)
			require.NotEmpty(t, report.Problems)
			require.LessOrEqual(t, len(report.Problems), maxProblems+1)
			require.Contains(t, got.stderr, path+" is damaged")
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, damaged, after)
		})
	}

	missing := filepath.Join(t.TempDir(), "none.db")
	got, _ = check(missing)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, missing)
	require.Contains(t, got.stderr, "no such file or directory: name the file, or its --data-dir and --database")
}

// What cp makes of the file of a running process looks whole, and is not: the rest is in the log.
func TestACopyWithoutItsLogIsNoBackup(t *testing.T) {
	p := start(t, newFolders(t))
	raw, err := os.ReadFile(filepath.Join(p.data, "dapr.db"))
	require.NoError(t, err)
	p.stop(t)
	copied := filepath.Join(t.TempDir(), "copy.db")
	require.NoError(t, os.WriteFile(copied, raw, 0o600))
	got := shell{}.run(t, "check", copied, "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code, got.stdout)
	require.Contains(t, got.stdout, "it was not closed cleanly, and its log")
	got = shell{}.run(t, "restore", copied, "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code, got.stdout)
	require.Contains(t, got.stderr, "it was not closed cleanly, and its log")
}

func TestCheckFindsAFlippedBitOfAValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dapr.db")
	db, err := boltdb.Open(t.Context(), path, boltdb.Options{})
	require.NoError(t, err)
	engine, err := stateengine.New(db, "orders")
	require.NoError(t, err)
	store, err := statestore.New(engine, statestore.Options{})
	require.NoError(t, err)
	for _, key := range []string{"sound", "damaged"} {
		w := statestore.Write{Op: statestore.OpSet, Key: key, Value: []byte("the value of " + key)}
		require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{w}}))
	}
	require.NoError(t, store.Close(t.Context()))
	require.NoError(t, db.Close())
	require.Equal(t, exitOK, shell{}.run(t, "check", path, "--data-dir", t.TempDir()).code)

	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := bytes.ReplaceAll(raw, []byte("the value of damaged"), []byte("the value of damagee"))
	require.NotEqual(t, raw, damaged)
	require.NoError(t, os.WriteFile(path, damaged, 0o600))
	got := shell{}.run(t, "check", path, "--data-dir", t.TempDir())
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stdout+got.stderr, `bucket state/orders: value of key "damaged"`)
	require.NotContains(t, got.stdout+got.stderr, `"sound"`)
}

func TestVersion(t *testing.T) {
	env := shell{env: map[string]string{"HOME": t.TempDir()}}
	require.Regexp(t, `^dapr-bolt \S+ \(go\S+, \S+/\S+\)\n$`, env.run(t, "version").stdout)
	var v versionInfo
	require.NoError(t, json.Unmarshal([]byte(env.run(t, "version", "--output", "json").stdout), &v))
	require.NotEmpty(t, v.Version)
	require.NotEmpty(t, v.Go)
}

// The process of a service may have a /tmp of its own: what it has written there is not where the command was told to put it.
func TestABackupThatIsNotThereIsNone(t *testing.T) {
	f := newFolders(t)
	require.NoError(t, os.MkdirAll(f.data, 0o700))
	path := filepath.Join(t.TempDir(), "copy.db")
	l, err := net.Listen("unix", f.adminSocket())
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(admin.BackupResult{Database: "dapr", Path: path, Size: 5})
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer func() {
		require.NoError(t, server.Close())
		<-ended
	}()
	for _, output := range []string{"text", "json"} {
		got := shell{}.run(t, "backup", path, "--output", output, "--data-dir", f.data)
		require.Equal(t, exitFailure, got.code)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, path+": the process has written it to a folder of its own")
	}
	require.NoError(t, os.WriteFile(path, []byte("older, and another"), 0o600))
	require.Equal(t, exitFailure, shell{}.run(t, "backup", path, "--data-dir", f.data).code)
	require.NoError(t, os.WriteFile(path, []byte("whole"), 0o600))
	got := shell{}.run(t, "backup", path, "--data-dir", f.data)
	require.Equal(t, exitOK, got.code, got.stderr)
}
