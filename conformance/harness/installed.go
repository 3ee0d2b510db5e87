package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/mod/semver"
)

// DaprdVariable names an installed daprd to use in place of the pinned build. It
// must be of the pinned minor version.
const DaprdVariable = "DAPR_BOLT_DAPRD"

// Daprd returns the path of the sidecar: the one that DaprdVariable names, else
// the pinned version, downloaded or built into the checkout's cache when it is not
// there yet. A build takes minutes; progress (which may be nil) is told so.
func (c Checkout) Daprd(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(DaprdVariable); path != "" {
		return path, c.checkInstalledDaprd(ctx, path)
	}
	return c.pinnedDaprd(ctx, progress)
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
