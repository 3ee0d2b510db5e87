package harness

import (
	"bytes"
	"context"
	"os"
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
	checkout := Checkout{daprVersion: "v1.18.2"}
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
			got, err := checkout.Daprd(t.Context(), nil)
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
	unlock, err := lockFile(t.Context(), path, nil)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	told := notify{cancel}
	_, err = lockFile(ctx, path, told)
	require.ErrorIs(t, err, context.Canceled)

	unlock()
	unlock, err = lockFile(t.Context(), path, nil)
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
