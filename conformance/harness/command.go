package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Command builds <checkout>/cmd/<name> and returns the path of the binary. It
// always asks the Go tool, whose own cache makes an unchanged build quick. With
// the race detector on in the calling program, the binary has it as well; else it is
// built without cgo, as all that `make run` needs, so that their builds share packages.
func (c Checkout) Command(ctx context.Context, name string, progress io.Writer) (string, error) {
	folder := "bin"
	var flags []string
	env := []string{"CGO_ENABLED=0"}
	if RaceEnabled {
		folder, flags, env = "bin-race", []string{"-race"}, nil
	}
	path := c.Path(".cache", folder, name)
	unlock, err := lockFile(ctx, c.Path(".cache", name+".lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	return path, goBuild(ctx, goBuildOptions{
		What:     name,
		Dir:      c.Path(),
		Package:  "./cmd/" + name,
		Output:   path,
		Progress: progress,
		Flags:    flags,
		Env:      env,
	})
}

// CommandAt builds cmd/<name> of another commit, without the race detector, and returns the path of the binary. The commit
// is anything that git knows by that name.
func (c Checkout) CommandAt(ctx context.Context, name, commit string, progress io.Writer) (string, error) {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", c.root}, args...)...).Output()
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(failed.Stderr))
		}
		return string(bytes.TrimSpace(out)), err
	}
	hash, err := git("rev-parse", "--verify", commit+"^{commit}")
	if err != nil {
		return "", err
	}
	path := c.Path(".cache", "commits", hash, name)
	if isFile(path) {
		return path, nil
	}
	if err := os.MkdirAll(c.Path(".cache"), 0o755); err != nil {
		return "", err
	}
	source, err := os.MkdirTemp(c.Path(".cache"), ".commit-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(source) }()
	archive := filepath.Join(source, "archive.tar")
	if _, err := git("archive", "--output", archive, hash); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-x", "-f", archive, "-C", source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack commit %s: %w: %s", hash, err, out)
	}
	return path, goBuild(ctx, goBuildOptions{
		What: name + " of " + commit, Dir: source, Package: "./cmd/" + name, Output: path, Progress: progress,
	})
}
