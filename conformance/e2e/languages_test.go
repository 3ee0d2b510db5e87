package e2e_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// pythonInterpreter is one that has what cmd/todo-python/requirements.txt names, Dapr's SDK among it, and the SDK's extensions,
// from PyPI. Where there is no Python that can make a virtual environment, the test says so and is left out.
func pythonInterpreter(t *testing.T) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "python3", "-c", "import venv, ensurepip").CombinedOutput(); err != nil {
		t.Skipf("Python was not tried: no python3 with the module venv: %v: %s", err, out)
	}
	dir := installed(t, "python", "requirements.txt", func(dir, manifest string) [][]string {
		return [][]string{
			{"python3", "-m", "venv", "--clear", dir},
			{filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", manifest, "dapr[grpc,workflow]"},
		}
	})
	return filepath.Join(dir, "bin", "python")
}

// nodeWithModules is Node.js and a folder with what cmd/todo-javascript/package.json names, Dapr's SDK among it, from npm.
func nodeWithModules(t *testing.T) (node, modules string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = exec.LookPath("npm")
	}
	if err != nil {
		t.Skipf("JavaScript was not tried: %v", err)
	}
	dir := installed(t, "javascript", "package.json", func(dir, manifest string) [][]string {
		return [][]string{
			{"mkdir", "-p", dir},
			{"cp", manifest, dir},
			{"npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error"},
		}
	})
	return node, filepath.Join(dir, "node_modules")
}

// installed is a folder of the checkout's cache which the commands fill with what the manifest of cmd/todo-<language> names,
// once for each content of that. Processes that ask at the same time share it.
func installed(t *testing.T, language, manifest string, commands func(dir, manifest string) [][]string) (dir string) {
	t.Helper()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	manifest = checkout.Path("cmd", "todo-"+language, manifest)
	wanted, err := os.ReadFile(manifest)
	require.NoError(t, err)
	dir = checkout.Path(".cache", fmt.Sprintf("%s-%.4x", language, sha256.Sum256(wanted)))
	complete := filepath.Join(dir, "complete")
	require.NoError(t, checkout.Once(t.Context(), complete, func() error {
		fmt.Fprintf(os.Stderr, "installing what %s names into .cache\n", filepath.Base(manifest))
		for _, command := range commands(dir, manifest) {
			if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w: %s", command, err, out)
			}
		}
		return os.WriteFile(complete, nil, 0o644)
	}))
	return dir
}
