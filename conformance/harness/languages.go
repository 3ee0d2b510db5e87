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

// pythonSDK is Dapr's SDK for Python, as PyPI names it.
const pythonSDK = "dapr==1.19.0"

// ErrNoPython means that this machine has no python3 that can make a virtual environment.
var ErrNoPython = errors.New("no python3 with the module venv")

// Python returns the path of a Python interpreter that has Dapr's SDK, which is installed from PyPI into a virtual
// environment in the checkout's cache when it is not there yet. Processes that ask at the same time share it.
func (c Checkout) Python(ctx context.Context, progress io.Writer) (string, error) {
	system, err := exec.LookPath("python3")
	if err != nil {
		return "", errors.Join(ErrNoPython, err)
	}
	if out, err := exec.CommandContext(ctx, system, "-c", "import venv, ensurepip").CombinedOutput(); err != nil {
		return "", errors.Join(ErrNoPython, fmt.Errorf("%w: %s", err, out))
	}
	dir := c.Path(".cache", "python-"+pythonSDK)
	interpreter, complete := filepath.Join(dir, "bin", "python"), filepath.Join(dir, "complete")
	unlock, err := lockFile(ctx, c.Path(".cache", "python.lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(complete) {
		return interpreter, nil
	}
	if progress != nil {
		_, _ = fmt.Fprintf(progress, "installing %s from PyPI into .cache\n", pythonSDK)
	}
	for _, command := range [][]string{
		{system, "-m", "venv", "--clear", dir},
		{interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", pythonSDK},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("install %s: %v: %w: %s", pythonSDK, command, err, out)
		}
	}
	return interpreter, os.WriteFile(complete, nil, 0o644)
}
