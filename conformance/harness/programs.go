package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// Programs are the binaries that tests, the demo and `make run` start.
type Programs struct {
	Bolt, Todo, Daprd string
}

// BuildPrograms builds what is not built yet. The first time takes minutes.
func (c Checkout) BuildPrograms(ctx context.Context) (p Programs, err error) {
	if p.Bolt, err = c.Command(ctx, "dapr-bolt"); err != nil {
		return Programs{}, err
	}
	if p.Todo, err = c.Command(ctx, "todo"); err != nil {
		return Programs{}, err
	}
	p.Daprd, err = c.Daprd(ctx)
	return p, err
}

// Command builds <checkout>/cmd/<name> and returns the path of the binary. It
// always asks the Go tool, whose own cache makes an unchanged build quick. With
// the race detector on in the calling program, the binary has it as well; else it is
// built without cgo, as all that `make run` needs, so that their builds share packages.
func (c Checkout) Command(ctx context.Context, name string) (string, error) {
	build := goBuildOptions{
		What: name, Dir: c.Path(), Package: "./cmd/" + name, Output: c.Path(".cache", "bin", name),
		Env: []string{"CGO_ENABLED=0"}, Progress: c.progress,
	}
	if RaceEnabled {
		build.Output, build.Flags, build.Env = c.Path(".cache", "bin-race", name), []string{"-race"}, nil
	}
	unlock, err := lockFile(ctx, c.Path(".cache", name+".lock"), c.progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	return build.Output, goBuild(ctx, build)
}

// CommandAt builds cmd/<name> of another commit, without the race detector, and returns the path of the binary. The commit
// is anything that git knows by that name.
func (c Checkout) CommandAt(ctx context.Context, name, commit string) (string, error) {
	hash, err := output(ctx, c.root, "git", "rev-parse", "--verify", commit+"^{commit}")
	if err != nil {
		return "", err
	}
	path := c.Path(".cache", "commits", hash, name)
	return path, c.Once(ctx, path, func() error {
		source, err := os.MkdirTemp(c.Path(".cache"), ".commit-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(source) }()
		archive := filepath.Join(source, "archive.tar")
		if _, err := output(ctx, c.root, "git", "archive", "--output", archive, hash); err != nil {
			return err
		}
		if _, err := output(ctx, source, "tar", "-x", "-f", archive); err != nil {
			return err
		}
		return goBuild(ctx, goBuildOptions{
			What: name + " of " + commit, Dir: source, Package: "./cmd/" + name, Output: path, Progress: c.progress,
		})
	})
}

// Once has put make the file at path, in one step or after all else that it makes, unless the file is there. Of processes that
// ask at the same time, one does.
func (c Checkout) Once(ctx context.Context, path string, put func() error) error {
	if isFile(path) {
		return nil
	}
	unlock, err := lockFile(ctx, filepath.Dir(path)+".lock", c.progress)
	if err != nil {
		return err
	}
	defer unlock()
	if isFile(path) {
		return nil
	}
	return put()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// DaprdVariable names an installed daprd to use in place of the pinned build. It
// must be of the pinned minor version.
const DaprdVariable = "DAPR_BOLT_DAPRD"

// Daprd returns the path of the sidecar: the one that DaprdVariable names, else
// the pinned version, downloaded or built into the checkout's cache when it is not
// there yet. A build takes minutes.
func (c Checkout) Daprd(ctx context.Context) (string, error) {
	path := os.Getenv(DaprdVariable)
	if path == "" {
		return c.daprProgram(ctx, "daprd", c.buildDaprd)
	}
	version, err := output(ctx, "", path, "--version")
	if err != nil {
		return "", fmt.Errorf("%s=%s: asking for its version: %w", DaprdVariable, path, err)
	}
	want := semver.MajorMinor(c.daprVersion)
	if semver.MajorMinor("v"+strings.TrimPrefix(version, "v")) != want {
		return "", fmt.Errorf("%s=%s is version %q; allowed is any %s.x, as pinned in conformance/go.mod (unset the variable to build %s)",
			DaprdVariable, path, version, strings.TrimPrefix(want, "v"), c.daprVersion)
	}
	return path, nil
}

// Placement returns the path of Dapr's placement service, which knows where actors live, and Scheduler that of the service
// which keeps the reminders of actors and workflows. They are downloaded or built, and kept, as the sidecar is.
func (c Checkout) Placement(ctx context.Context) (string, error) {
	return c.daprProgram(ctx, "placement", goBuild)
}

// Scheduler is described at Placement.
func (c Checkout) Scheduler(ctx context.Context) (string, error) {
	return c.daprProgram(ctx, "scheduler", goBuild)
}

// daprProgram returns the path of a program of the pinned version of Dapr: as it was released, or built from
// <dapr>/cmd/<name> where it cannot be downloaded.
func (c Checkout) daprProgram(ctx context.Context, name string, build func(context.Context, goBuildOptions) error) (string, error) {
	releases, ok := os.LookupEnv(DownloadsVariable)
	if !ok {
		releases = daprReleases
	}
	r := release{releases: releases, name: name, version: c.daprVersion, silence: 10 * time.Second, progress: c.progress}
	path := c.cachedPath(name, c.daprVersion)
	return path, c.Once(ctx, path, func() error {
		if releases != "" {
			err := r.download(ctx, path)
			if err == nil || ctx.Err() != nil {
				return err
			}
			_, _ = fmt.Fprintf(c.progress, "%s is built, because it cannot be downloaded: %v\n", r.what(), err)
		}
		number := strings.TrimPrefix(c.daprVersion, "v")
		return build(ctx, goBuildOptions{
			What: r.what(), Dir: c.Path("conformance"), Package: daprModule + "/cmd/" + name, Output: path, Progress: c.progress,
			Flags: []string{"-ldflags", "-s -w -X " + daprModule + "/pkg/buildinfo.version=" + number +
				" -X github.com/dapr/kit/logger.DaprVersion=" + number},
			Env: []string{"CGO_ENABLED=0"},
		})
	})
}

func (c Checkout) cachedPath(name, version string) string {
	return c.Path(".cache", name+"-"+version, name)
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
	downloaded, err := output(ctx, opts.Dir, "go", "mod", "download", "-json", daprModule)
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(downloaded), &module); err != nil {
		return err
	}
	sources, mod := filepath.Join(scratch, "dapr"), filepath.Join(scratch, "daprd.mod")
	components := filepath.Join(sources, "cmd", "daprd", "components")
	for _, step := range []func() error{
		func() error { return os.CopyFS(sources, os.DirFS(module.Dir)) },
		func() error { return os.RemoveAll(components) },
		func() error { return os.CopyFS(components, os.DirFS(c.Path("conformance", "harness", "components"))) },
		func() error { return copyFile(c.Path("conformance", "go.mod"), mod) },
		func() error { return copyFile(c.Path("conformance", "go.sum"), filepath.Join(scratch, "daprd.sum")) },
		func() error {
			_, err := output(ctx, scratch, "go", "mod", "edit", "-replace="+daprModule+"="+sources, mod)
			return err
		},
	} {
		if err := step(); err != nil {
			return fmt.Errorf("copying the sources of Dapr %s: %w", c.daprVersion, err)
		}
	}
	opts.Note = "the first build of the Dapr sidecar takes minutes; it is kept in .cache"
	opts.Flags = append(opts.Flags, "-modfile", mod)
	return goBuild(ctx, opts)
}

func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o600)
}

// EtcdServer returns the path of etcd, built from the module that conformance/go.mod pins, and kept.
func (c Checkout) EtcdServer(ctx context.Context) (string, error) {
	return c.serverProgram(ctx, "etcd", "go.etcd.io/etcd/server/v3")
}

// NATSVariable names an installed nats-server to use in place of the pinned one.
const NATSVariable = "DAPR_BOLT_NATS_SERVER"

// NATSServer returns the path of nats-server: the one that NATSVariable names, or the pinned one.
func (c Checkout) NATSServer(ctx context.Context) (string, error) {
	if path := os.Getenv(NATSVariable); path != "" {
		return path, nil
	}
	return c.PinnedNATSServer(ctx)
}

// PinnedNATSServer returns the path of nats-server, built as etcd is.
func (c Checkout) PinnedNATSServer(ctx context.Context) (string, error) {
	return c.serverProgram(ctx, "nats-server", "github.com/nats-io/nats-server/v2")
}

func (c Checkout) serverProgram(ctx context.Context, name, module string) (string, error) {
	version, err := requiredVersion(c.Path("conformance", "go.mod"), module)
	if err != nil {
		return "", err
	}
	path := c.cachedPath(name, version)
	return path, c.Once(ctx, path, func() error {
		return goBuild(ctx, goBuildOptions{
			What: name + " " + strings.TrimPrefix(version, "v"), Dir: c.Path("conformance"), Package: module, Output: path,
			Flags: []string{"-ldflags", "-s -w"}, Env: []string{"CGO_ENABLED=0"}, Progress: c.progress,
		})
	})
}

// output runs a program in dir (empty: here) and returns what it printed, with its errors in the error.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, failed.Stderr, out)
	}
	return strings.TrimSpace(string(out)), err
}
