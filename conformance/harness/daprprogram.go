package harness

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Placement returns the path of Dapr's placement service, which knows where actors
// live, of the pinned version. It is built and kept as the sidecar is.
func (c Checkout) Placement(ctx context.Context, progress io.Writer) (string, error) {
	return c.daprProgram(ctx, "placement", "", progress)
}

// Scheduler returns the path of Dapr's scheduler service, which keeps the reminders
// of actors and workflows, of the pinned version. It is built and kept as the
// sidecar is.
func (c Checkout) Scheduler(ctx context.Context, progress io.Writer) (string, error) {
	return c.daprProgram(ctx, "scheduler", "", progress)
}

// daprProgram returns the path of <dapr>/cmd/<name> of the pinned version.
func (c Checkout) daprProgram(ctx context.Context, name, note string, progress io.Writer) (string, error) {
	number := strings.TrimPrefix(c.daprVersion, "v")
	return c.pinnedProgram(ctx, name, c.daprVersion, daprModule+"/cmd/"+name, note, progress,
		// A daprd without one of its component tags panics at start; the stable
		// set also carries the built-in peers that tests compare with.
		"-tags", "stablecomponents",
		"-ldflags", "-s -w -X "+daprModule+"/pkg/buildinfo.version="+number+
			" -X github.com/dapr/kit/logger.DaprVersion="+number)
}

// pinnedProgram returns the path of a program that conformance/go.mod pins, built
// into the checkout's cache when it is not there yet. Processes that ask at the same
// time share one build.
func (c Checkout) pinnedProgram(ctx context.Context, name, version, pkg, note string, progress io.Writer, flags ...string) (string, error) {
	path := c.Path(".cache", name+"-"+version, name)
	if isFile(path) {
		return path, nil
	}
	unlock, err := lockFile(ctx, c.Path(".cache", name+".lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(path) {
		return path, nil
	}
	return path, goBuild(ctx, goBuildOptions{
		What:     name + " " + strings.TrimPrefix(version, "v"),
		Note:     note,
		Dir:      c.Path("conformance"),
		Package:  pkg,
		Output:   path,
		Progress: progress,
		Flags:    flags,
		Env:      []string{"CGO_ENABLED=0"},
	})
}

func isFile(path string) bool {
	info, err := os.Stat(filepath.Clean(path))
	return err == nil && info.Mode().IsRegular()
}
