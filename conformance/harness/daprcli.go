package harness

import (
	"fmt"
	"os"
)

// DaprCLIVariable names an installed Dapr CLI to use in place of the one that `make test-dapr-run` builds.
const DaprCLIVariable = "DAPR_BOLT_DAPR_CLI"

// DaprCLI returns the path of the Dapr CLI. Its build takes minutes, and so is no part of every test run: there is an error
// where it was not made.
func (c Checkout) DaprCLI() (string, error) {
	path := os.Getenv(DaprCLIVariable)
	if path == "" {
		path = c.Path(".cache", "dapr-cli", "dapr")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the Dapr CLI is not built (%w): `make test-dapr-run` does, or %s names one", err, DaprCLIVariable)
	}
	return path, nil
}

// DaprHome makes a home directory as `dapr init --slim` leaves it, and returns it.
func (h *Harness) DaprHome(daprd string) (string, error) {
	home := h.Dir("home")
	if err := os.MkdirAll(h.Dir("home", ".dapr", "bin"), 0o755); err != nil {
		return "", err
	}
	if err := os.Symlink(daprd, h.Dir("home", ".dapr", "bin", "daprd")); err != nil {
		return "", err
	}
	return home, os.WriteFile(h.Dir("home", ".dapr", "config.yaml"),
		[]byte("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: daprConfig\nspec: {}\n"), 0o644)
}
