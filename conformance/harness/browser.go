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

// ErrNoBrowser means that this machine has no Chromium, and none could be installed.
var ErrNoBrowser = errors.New("no Chromium")

// Chromium returns the path of a Chromium. As root on Debian, it is installed where it is missing.
func (c Checkout) Chromium(ctx context.Context, progress io.Writer) (string, error) {
	names := []string{"chromium", "chromium-browser", "google-chrome"}
	find := func() string {
		for _, name := range names {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		return ""
	}
	unlock, err := lockFile(ctx, c.Path(".cache", "browser.lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if path := find(); path != "" {
		return path, nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return "", fmt.Errorf("%w: install one of %v", ErrNoBrowser, names)
	}
	_, _ = fmt.Fprintln(progress, "installing chromium with apt-get, to look at the console")
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "chromium"}} {
		cmd := exec.CommandContext(ctx, apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: apt-get %v: %w: %s", ErrNoBrowser, args, err, out)
		}
	}
	return find(), nil
}

// axeVersion is that of axe-core, as npm names it, which finds what people with disabilities cannot use. Its licence is
// MPL-2.0; it is run in tests, and no part of dapr-bolt.
const axeVersion = "axe-core@4.14.1"

// Axe returns the path of axe-core's script, which is downloaded with npm into the checkout's cache when it is not there yet.
func (c Checkout) Axe(ctx context.Context, progress io.Writer) (string, error) {
	dir := c.Path(".cache", axeVersion)
	script := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	unlock, err := lockFile(ctx, c.Path(".cache", "axe.lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(script) {
		return script, nil
	}
	_, _ = fmt.Fprintf(progress, "downloading %s with npm into .cache\n", axeVersion)
	cmd := exec.CommandContext(ctx, "npm", "install", "--silent", "--ignore-scripts", "--no-save", "--prefix", dir, axeVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("download %s: %w: %s", axeVersion, err, out)
	}
	return script, nil
}
