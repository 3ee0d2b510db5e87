package harness

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindCheckoutReadsThePinnedVersion(t *testing.T) {
	checkout, err := FindCheckout()
	require.NoError(t, err)
	require.FileExists(t, checkout.Path("conformance", "harness", "checkout.go"))
	require.Regexp(t, `^v1\.\d+\.\d+$`, checkout.DaprVersion())
}

func TestFindCheckoutOutsideOne(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := FindCheckout()
	require.ErrorContains(t, err, "no checkout of github.com/dapr-bolt/dapr-bolt")
}

func TestInstalledDaprd(t *testing.T) {
	checkout := Checkout{daprVersion: "v1.18.2", progress: t.Output()}
	for _, test := range []struct {
		says string
		err  string
	}{
		{says: "1.18.0"},
		{says: "v1.18.7"},
		{says: "1.17.4", err: `is version "1.17.4"; allowed is any 1.18.x`},
		{says: "edge", err: `is version "edge"; allowed is any 1.18.x`},
	} {
		t.Run(test.says, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "daprd")
			require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho "+test.says+"\n"), 0o755))
			t.Setenv(DaprdVariable, path)
			got, err := checkout.Daprd(t.Context())
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, path, got)
		})
	}
}

func TestLockIsExclusiveAndEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	unlock, err := lockFile(t.Context(), path, t.Output())
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	told := notify{cancel}
	_, err = lockFile(ctx, path, told)
	require.ErrorIs(t, err, context.Canceled)

	unlock()
	unlock, err = lockFile(t.Context(), path, t.Output())
	require.NoError(t, err)
	unlock()
}

// notify calls its function when it is written to.
type notify struct{ called func() }

func (n notify) Write(p []byte) (int, error) { n.called(); return len(p), nil }

func TestAFailedBuildSaysWhatTheCompilerSaid(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module broken\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\nfunc main() { undefinedThing() }\n"), 0o644))
	var progress bytes.Buffer
	out := filepath.Join(dir, "out", "broken")
	err := goBuild(t.Context(), goBuildOptions{What: "broken", Dir: dir, Package: ".", Output: out, Progress: &progress})
	require.ErrorContains(t, err, "building broken")
	require.ErrorContains(t, err, "undefined: undefinedThing")
	require.NoFileExists(t, out)
}

// The benchmark measures other builds beside this one.
func TestCommandAtBuildsAnotherCommit(t *testing.T) {
	checkout := Checkout{root: t.TempDir(), progress: t.Output()}
	git := func(args ...string) {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", checkout.root, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	commit := func(says string) {
		require.NoError(t, os.MkdirAll(checkout.Path("cmd", "thing"), 0o755))
		require.NoError(t, os.WriteFile(checkout.Path("go.mod"), []byte("module thing\n"), 0o644))
		require.NoError(t, os.WriteFile(checkout.Path("cmd", "thing", "main.go"), []byte("package main\nfunc main() { print(`"+says+"`) }\n"), 0o644))
		git("add", "go.mod", "cmd")
		git("commit", "-q", "-m", says)
	}
	git("init", "-q")
	commit("first")
	commit("second")
	for commit, says := range map[string]string{"HEAD": "second", "HEAD~1": "first"} {
		path, err := checkout.CommandAt(t.Context(), "thing", commit)
		require.NoError(t, err)
		out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, says, string(out))
	}
	_, err := checkout.CommandAt(t.Context(), "thing", "no-such-commit")
	require.ErrorContains(t, err, "git rev-parse")
}
