package harness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"
)

const (
	rootModule = "github.com/dapr-bolt/dapr-bolt"
	daprModule = "github.com/dapr/dapr"
)

// Checkout is the source tree that holds the working directory.
type Checkout struct {
	root        string
	daprVersion string
	progress    io.Writer // is told what is built, downloaded and waited for
}

// FindCheckout walks up from the working directory to the folder that holds
// dapr-bolt's go.mod. Tests run in their package's folder and make runs in the
// root, so both find the tree that they were started from.
func FindCheckout() (Checkout, error) {
	start, err := os.Getwd()
	if err != nil {
		return Checkout{}, err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && modfile.ModulePath(raw) == rootModule {
			version, err := requiredVersion(filepath.Join(dir, "conformance", "go.mod"), daprModule)
			return Checkout{root: dir, daprVersion: version, progress: os.Stderr}, err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Checkout{}, err
		}
		if filepath.Dir(dir) == dir {
			return Checkout{}, fmt.Errorf("no checkout of %s at or above %s", rootModule, start)
		}
	}
}

// requiredVersion reads the version that goMod requires of module.
func requiredVersion(goMod, module string) (string, error) {
	raw, err := os.ReadFile(goMod)
	if err != nil {
		return "", err
	}
	file, err := modfile.ParseLax(goMod, raw, nil)
	if err != nil {
		return "", err
	}
	for _, required := range file.Require {
		if required.Mod.Path == module {
			return required.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s requires no %s", goMod, module)
}

// Path joins the elements to the root of the checkout.
func (c Checkout) Path(elements ...string) string {
	return filepath.Join(append([]string{c.root}, elements...)...)
}

// DaprVersion is the version of Dapr that conformance/go.mod pins, as in "v1.18.2".
func (c Checkout) DaprVersion() string { return c.daprVersion }
