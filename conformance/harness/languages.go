package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// pythonExtensions are what the tests' apps need of Dapr's SDK for Python, beside what the todo app's requirements name.
const pythonExtensions = "dapr[grpc,workflow]"

// ErrNoPython means that this machine has no python3 that can make a virtual environment.
var ErrNoPython = errors.New("no python3 with the module venv")

// Python returns the path of a Python interpreter that has what cmd/todo-python/requirements.txt names, Dapr's SDK among it,
// and the SDK's extensions. They are installed from PyPI into a virtual environment in the checkout's cache when they are not
// there yet. Processes that ask at the same time share it.
func (c Checkout) Python(ctx context.Context, progress io.Writer) (string, error) {
	system, err := exec.LookPath("python3")
	if err != nil {
		return "", errors.Join(ErrNoPython, err)
	}
	if out, err := exec.CommandContext(ctx, system, "-c", "import venv, ensurepip").CombinedOutput(); err != nil {
		return "", errors.Join(ErrNoPython, fmt.Errorf("%w: %s", err, out))
	}
	requirements := c.Path("cmd", "todo-python", "requirements.txt")
	dir, err := c.install(ctx, "python", requirements, progress, func(dir string) []*exec.Cmd {
		return []*exec.Cmd{
			exec.CommandContext(ctx, system, "-m", "venv", "--clear", dir),
			exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
				"-r", requirements, pythonExtensions),
		}
	})
	return filepath.Join(dir, "bin", "python"), err
}

// ErrNoNode means that this machine has no Node.js with npm.
var ErrNoNode = errors.New("no node with npm")

// Node returns the path of Node.js and of a folder node_modules with what cmd/todo-javascript/package.json names, Dapr's SDK
// among it, which is installed from npm as Python's is.
func (c Checkout) Node(ctx context.Context, progress io.Writer) (node, modules string, err error) {
	node, err1 := exec.LookPath("node")
	npm, err2 := exec.LookPath("npm")
	if err := errors.Join(err1, err2); err != nil {
		return "", "", errors.Join(ErrNoNode, err)
	}
	manifest := c.Path("cmd", "todo-javascript", "package.json")
	dir, err := c.install(ctx, "node", manifest, progress, func(dir string) []*exec.Cmd {
		install := exec.CommandContext(ctx, npm, "install", "--prefix", dir, "--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error")
		return []*exec.Cmd{exec.CommandContext(ctx, "cp", manifest, dir), install}
	})
	return node, filepath.Join(dir, "node_modules"), err
}

// install runs the commands that fill a folder of the checkout's cache with what the manifest names, unless it is complete
// already, and returns the folder.
func (c Checkout) install(ctx context.Context, what, manifest string, progress io.Writer, commands func(dir string) []*exec.Cmd) (dir string, err error) {
	wanted, err := os.ReadFile(manifest)
	if err != nil {
		return "", err
	}
	dir = c.Path(".cache", what)
	unlock, err := lockFile(ctx, c.Path(".cache", what+".lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	complete := filepath.Join(dir, "complete")
	if there, err := os.ReadFile(complete); err == nil && string(there) == string(wanted) {
		return dir, nil
	}
	if progress != nil {
		_, _ = fmt.Fprintf(progress, "installing what %s names into .cache\n", filepath.Base(manifest))
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return "", err
	}
	for _, command := range commands(dir) {
		if out, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("install: %v: %w: %s", command.Args, err, out)
		}
	}
	return dir, os.WriteFile(complete, wanted, 0o644)
}
