package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
)

// Placement returns the path of Dapr's placement service, which knows where actors
// live, of the pinned version. It is downloaded or built, and kept, as the sidecar is.
func (c Checkout) Placement(ctx context.Context, progress io.Writer) (string, error) {
	return c.daprProgram(ctx, "placement", progress, goBuild)
}

// Scheduler returns the path of Dapr's scheduler service, which keeps the reminders
// of actors and workflows, of the pinned version. It is downloaded or built, and kept,
// as the sidecar is.
func (c Checkout) Scheduler(ctx context.Context, progress io.Writer) (string, error) {
	return c.daprProgram(ctx, "scheduler", progress, goBuild)
}

// pinnedDaprd returns the path of the sidecar of the pinned version.
func (c Checkout) pinnedDaprd(ctx context.Context, progress io.Writer) (string, error) {
	return c.daprProgram(ctx, "daprd", progress, c.buildDaprd)
}

// daprProgram returns the path of a program of the pinned version of Dapr: as it was released, or built from
// <dapr>/cmd/<name> where it cannot be downloaded.
func (c Checkout) daprProgram(ctx context.Context, name string, progress io.Writer,
	build func(context.Context, goBuildOptions) error,
) (string, error) {
	releases, ok := os.LookupEnv(DownloadsVariable)
	if !ok {
		releases = daprReleases
	}
	r := release{releases: releases, name: name, version: c.daprVersion, silence: 10 * time.Second, progress: progress}
	return c.cached(ctx, name, c.daprVersion, progress, func(path string) error {
		if releases != "" {
			err := r.download(ctx, path)
			if err == nil || ctx.Err() != nil {
				return err
			}
			if progress != nil {
				_, _ = fmt.Fprintf(progress, "%s is built, because it cannot be downloaded: %v\n", r.what(), err)
			}
		}
		number := strings.TrimPrefix(c.daprVersion, "v")
		return build(ctx, goBuildOptions{
			What:     r.what(),
			Dir:      c.Path("conformance"),
			Package:  daprModule + "/cmd/" + name,
			Output:   path,
			Progress: progress,
			Flags: []string{"-ldflags", "-s -w -X " + daprModule + "/pkg/buildinfo.version=" + number +
				" -X github.com/dapr/kit/logger.DaprVersion=" + number},
			Env: []string{"CGO_ENABLED=0"},
		})
	})
}

// buildDaprd builds the sidecar with the components of harness/components. Dapr has no flag for that, so a copy of its sources
// is built in which they stand in the place of Dapr's own. A build of hundreds of packages less is worth the copy: whoever
// cannot download the sidecar waits for it.
func (c Checkout) buildDaprd(ctx context.Context, opts goBuildOptions) error {
	scratch, err := os.MkdirTemp(c.Path(".cache"), ".dapr-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	mod, err := c.copyDapr(ctx, scratch)
	if err != nil {
		return fmt.Errorf("copying the sources of Dapr %s: %w", c.daprVersion, err)
	}
	opts.Note = "the first build of the Dapr sidecar takes minutes; it is kept in .cache"
	opts.Flags = append(opts.Flags, "-modfile", mod)
	return goBuild(ctx, opts)
}

// copyDapr copies Dapr's sources into dir, with harness/components, and returns the path of a go.mod that uses them.
func (c Checkout) copyDapr(ctx context.Context, dir string) (mod string, err error) {
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", daprModule)
	download.Dir = c.Path("conformance")
	out, err := download.Output()
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	sources := filepath.Join(dir, "dapr")
	if err := os.CopyFS(sources, os.DirFS(module.Dir)); err != nil {
		return "", err
	}
	components := filepath.Join(sources, "cmd", "daprd", "components")
	if err := os.RemoveAll(components); err != nil {
		return "", err
	}
	if err := os.CopyFS(components, os.DirFS(c.Path("conformance", "harness", "components"))); err != nil {
		return "", err
	}

	goMod := c.Path("conformance", "go.mod")
	raw, err := os.ReadFile(goMod)
	if err != nil {
		return "", err
	}
	file, err := modfile.Parse(goMod, raw, nil)
	if err != nil {
		return "", err
	}
	if err := file.AddReplace(daprModule, "", sources, ""); err != nil {
		return "", err
	}
	if raw, err = file.Format(); err != nil {
		return "", err
	}
	sums, err := os.ReadFile(c.Path("conformance", "go.sum"))
	if err != nil {
		return "", err
	}
	mod = filepath.Join(dir, "daprd.mod")
	return mod, errors.Join(os.WriteFile(mod, raw, 0o600), os.WriteFile(filepath.Join(dir, "daprd.sum"), sums, 0o600))
}

// pinnedProgram returns the path of a program that conformance/go.mod pins, built
// into the checkout's cache when it is not there yet.
func (c Checkout) pinnedProgram(ctx context.Context, name, version, pkg string, progress io.Writer, flags ...string) (string, error) {
	return c.cached(ctx, name, version, progress, func(path string) error {
		return goBuild(ctx, goBuildOptions{
			What:     name + " " + strings.TrimPrefix(version, "v"),
			Dir:      c.Path("conformance"),
			Package:  pkg,
			Output:   path,
			Progress: progress,
			Flags:    flags,
			Env:      []string{"CGO_ENABLED=0"},
		})
	})
}

// cached returns the path of a program in the checkout's cache, where put puts it when
// it is not there yet. Of processes that ask at the same time, one calls put.
func (c Checkout) cached(ctx context.Context, name, version string, progress io.Writer, put func(path string) error) (string, error) {
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
	return path, put(path)
}

func isFile(path string) bool {
	info, err := os.Stat(filepath.Clean(path))
	return err == nil && info.Mode().IsRegular()
}
