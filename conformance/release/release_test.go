// Package release_test makes a release for the machine that it runs on, and looks into it.
package release_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The archive of a release has all that its reader is told of, and its program says which commit it is.
func TestRelease(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	require.NoDirExists(t, checkout.Path("dist"), "a release is there already: remove it, it would be replaced")
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(checkout.Path("dist"))) })
	script := exec.CommandContext(t.Context(), checkout.Path("deploy", "release.sh"), "v0.0.1-test", runtime.GOOS+"/"+runtime.GOARCH)
	// Images go to a place of their own, in the one way that works wherever the tests run.
	storage := filepath.Join(t.TempDir(), "storage.conf")
	require.NoError(t, os.WriteFile(storage, fmt.Appendf(nil, "[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", t.TempDir(), t.TempDir()), 0o600))
	script.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+storage)
	out, err := script.CombinedOutput()
	require.NoError(t, err, "%s", out)

	name := "dapr-bolt_0.0.1-test_" + runtime.GOOS + "_" + runtime.GOARCH
	archive, err := os.ReadFile(checkout.Path("dist", name+".tar.gz"))
	require.NoError(t, err)
	dir := t.TempDir()
	unpack(t, archive, dir)
	for _, file := range []string{"dapr-bolt", "todo", "LICENSE", "README.md", "docs/configuration.md", "completions/dapr-bolt.bash", "man/dapr-bolt.1"} {
		require.FileExists(t, filepath.Join(dir, name, file))
	}
	head, err := exec.CommandContext(t.Context(), "git", "-C", checkout.Path(), "rev-parse", "HEAD").Output()
	require.NoError(t, err)
	said, err := exec.CommandContext(t.Context(), filepath.Join(dir, name, "dapr-bolt"), "--version").Output()
	require.NoError(t, err)
	require.Contains(t, string(said), "v0.0.1-test")
	require.Contains(t, string(said), strings.TrimSpace(string(head))[:12])

	sums, err := os.ReadFile(checkout.Path("dist", "checksums.txt"))
	require.NoError(t, err)
	sum := sha256.Sum256(archive)
	require.Contains(t, string(sums), hex.EncodeToString(sum[:])+"  "+name+".tar.gz")
	formula, err := os.ReadFile(checkout.Path("dist", "dapr-bolt.rb"))
	require.NoError(t, err)
	require.Contains(t, string(formula), hex.EncodeToString(sum[:]))

	if _, err := exec.LookPath("buildah"); err == nil && runtime.GOOS == "linux" {
		require.FileExists(t, checkout.Path("dist", "dapr-bolt_0.0.1-test_image.tar"))
		require.FileExists(t, checkout.Path("dist", "todo_0.0.1-test_image.tar"))
	} else {
		t.Log("buildah is not installed: no image was built")
	}

	var sbom struct {
		Components []struct{ Name string }
	}
	raw, err := os.ReadFile(checkout.Path("dist", name+".sbom.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &sbom))
	var names []string
	for _, c := range sbom.Components {
		names = append(names, c.Name)
	}
	require.Contains(t, names, "go.etcd.io/bbolt")
}

func unpack(t *testing.T, archive []byte, dir string) {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	entries := tar.NewReader(plain)
	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		path := filepath.Join(dir, filepath.FromSlash(entry.Name))
		if entry.FileInfo().IsDir() {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		content, err := io.ReadAll(entries)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, entry.FileInfo().Mode()))
	}
}

// systemd understands the unit, and rates what the service may do.
func TestSystemdUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: the unit is not checked")
	}
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	raw, err := os.ReadFile(checkout.Path("deploy", "systemd", "dapr-bolt.service"))
	require.NoError(t, err)
	// verify wants the program to be where the unit says.
	program, err := os.Executable()
	require.NoError(t, err)
	unit := filepath.Join(t.TempDir(), "dapr-bolt.service")
	require.NoError(t, os.WriteFile(unit, bytes.Replace(raw, []byte("/usr/local/bin/dapr-bolt"), []byte(program), 1), 0o644))
	for _, args := range [][]string{{"verify", unit}, {"security", "--offline=true", "--threshold=20", unit}} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
