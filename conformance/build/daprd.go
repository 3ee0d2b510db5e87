package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/semver"
)

// DaprdVariable names an installed daprd to use in place of the pinned build. It
// must be of the pinned minor version.
const DaprdVariable = "DAPR_BOLT_DAPRD"

// Daprd returns the path of the sidecar: the one that DaprdVariable names, else
// the pinned version, built into the checkout's cache when it is not there yet.
// The first build takes minutes; progress (which may be nil) is told so. Processes
// that ask at the same time share one build.
func (c Checkout) Daprd(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(DaprdVariable); path != "" {
		return path, c.checkInstalledDaprd(ctx, path)
	}
	path := c.Path(".cache", "daprd-"+c.daprVersion, "daprd")
	if isFile(path) {
		return path, nil
	}
	unlock, err := lockFile(ctx, c.Path(".cache", "daprd.lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(path) {
		return path, nil
	}
	version := strings.TrimPrefix(c.daprVersion, "v")
	return path, goBuild(ctx, goBuildOptions{
		What:     "daprd " + version,
		Note:     "the first build of the Dapr sidecar takes minutes; it is kept in .cache",
		Dir:      c.Path("conformance"),
		Package:  daprModule + "/cmd/daprd",
		Output:   path,
		Progress: progress,
		// A daprd without one of its component tags panics at start; the stable
		// set also carries the built-in peers that tests compare with.
		Flags: []string{
			"-tags", "stablecomponents",
			"-ldflags", "-s -w -X " + daprModule + "/pkg/buildinfo.version=" + version +
				" -X github.com/dapr/kit/logger.DaprVersion=" + version,
		},
		Env: []string{"CGO_ENABLED=0"},
	})
}

// checkInstalledDaprd refuses a daprd whose minor version is not the pinned one.
func (c Checkout) checkInstalledDaprd(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s=%s: asking for its version: %w", DaprdVariable, path, err)
	}
	got := strings.TrimSpace(string(out))
	want := semver.MajorMinor(c.daprVersion)
	if semver.MajorMinor("v"+strings.TrimPrefix(got, "v")) != want {
		return fmt.Errorf("%s=%s is version %q; allowed is any %s.x, as pinned in conformance/go.mod (unset the variable to build %s)",
			DaprdVariable, path, got, strings.TrimPrefix(want, "v"), c.daprVersion)
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(filepath.Clean(path))
	return err == nil && info.Mode().IsRegular()
}
