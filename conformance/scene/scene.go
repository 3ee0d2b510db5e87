// Package scene sets up what tests of real processes begin with: the built programs, and a dapr-bolt process in a
// harness that ends with the test.
package scene

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// RaceOptions are for binaries that were built with the race detector: it ends them at the first race, and does not keep
// them for a second at their exit.
const RaceOptions = "halt_on_error=1 atexit_sleep_ms=0"

// Programs are the binaries that most tests need.
type Programs struct{ Bolt, Daprd string }

// Bolt makes dapr-bolt once for all tests of a package, and returns the binary's path.
var Bolt = sync.OnceValues(func() (string, error) {
	checkout, err := build.FindCheckout()
	if err != nil {
		return "", err
	}
	return checkout.Command(context.Background(), "dapr-bolt", os.Stderr)
})

// Built makes the programs once for all tests of a package.
var Built = sync.OnceValues(func() (p Programs, err error) {
	if p.Bolt, err = Bolt(); err != nil {
		return p, err
	}
	checkout, err := build.FindCheckout()
	if err != nil {
		return p, err
	}
	p.Daprd, err = checkout.Daprd(context.Background(), os.Stderr)
	return p, err
})

// New returns a harness that ends with the test; its logs and data are kept if that failed.
func New(t *testing.T) *harness.Harness {
	t.Helper()
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			h.Keep()
			t.Logf("logs and data are in %s", h.Dir())
		}
		require.NoError(t, h.Close())
	})
	return h
}

// StartBolt starts a dapr-bolt process that ends with its harness, and waits until it is ready. The path of the binary is
// filled in unless opts name another.
func StartBolt(t *testing.T, h *harness.Harness, opts harness.BoltOptions) *harness.Bolt {
	t.Helper()
	if opts.Path == "" {
		path, err := Bolt()
		require.NoError(t, err)
		opts.Path = path
	}
	opts.Env = append(opts.Env, "GORACE="+RaceOptions)
	bolt, err := h.StartBolt(t.Context(), opts)
	require.NoError(t, err)
	return bolt
}

// Start is StartBolt in a harness of its own, for tests that start sidecars beside it.
func Start(t *testing.T, opts harness.BoltOptions) (*harness.Harness, *harness.Bolt, Programs) {
	t.Helper()
	programs, err := Built()
	require.NoError(t, err)
	h := New(t)
	return h, StartBolt(t, h, opts), programs
}
