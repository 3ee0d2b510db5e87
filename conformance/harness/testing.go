package harness

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// RaceOptions are for binaries that were built with the race detector: it ends them at the first race, and does not keep
// them for a second at their exit.
const RaceOptions = "halt_on_error=1 atexit_sleep_ms=0"

// BoltProgram makes dapr-bolt once for all tests of a package, and returns the binary's path.
var BoltProgram = programForTests(func(c Checkout, ctx context.Context) (string, error) {
	return c.Command(ctx, "dapr-bolt")
})

// EtcdProgram and NATSProgram are the same for the servers of a cluster, and DaprdProgram for the sidecar.
var (
	EtcdProgram  = programForTests(Checkout.EtcdServer)
	NATSProgram  = programForTests(Checkout.NATSServer)
	DaprdProgram = programForTests(Checkout.Daprd)
)

func programForTests(build func(c Checkout, ctx context.Context) (string, error)) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		checkout, err := FindCheckout()
		if err != nil {
			return "", err
		}
		return build(checkout, context.Background())
	})
}

// StartEtcd starts a cluster of etcd servers that ends with its harness.
func StartEtcd(t testing.TB, h *Harness, opts ClusterOptions) *Etcd {
	t.Helper()
	path, err := EtcdProgram()
	require.NoError(t, err)
	opts.Path = path
	etcd, err := h.StartEtcd(t.Context(), opts)
	require.NoError(t, err)
	return etcd
}

// StartNATS starts a cluster of nats-servers that ends with its harness.
func StartNATS(t testing.TB, h *Harness, opts ClusterOptions) *NATS {
	t.Helper()
	path, err := NATSProgram()
	require.NoError(t, err)
	opts.Path = path
	nats, err := h.StartNATS(t.Context(), opts)
	require.NoError(t, err)
	return nats
}

// TestPrograms makes the programs once for all tests of a package.
var TestPrograms = sync.OnceValues(func() (Programs, error) {
	checkout, err := FindCheckout()
	if err != nil {
		return Programs{}, err
	}
	return checkout.BuildPrograms(context.Background())
})

// ForTest returns a harness that ends with the test; its logs and data are kept if that failed.
func ForTest(t testing.TB) *Harness {
	t.Helper()
	h, err := New(Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			h.Keep()
			t.Logf("logs and data are in %s", h.Dir())
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// StartBolt starts a dapr-bolt process that ends with its harness, and waits until it is ready. The path of the binary is
// filled in unless opts name another.
func StartBolt(t testing.TB, h *Harness, opts BoltOptions) *Bolt {
	t.Helper()
	if opts.Path == "" {
		path, err := BoltProgram()
		require.NoError(t, err)
		opts.Path = path
	}
	bolt, err := h.StartBolt(t.Context(), opts)
	require.NoError(t, err)
	return bolt
}

// Start is StartBolt in a harness of its own, for tests that start sidecars beside it.
func Start(t testing.TB, opts BoltOptions) (*Harness, *Bolt, Programs) {
	t.Helper()
	programs, err := TestPrograms()
	require.NoError(t, err)
	h := ForTest(t)
	return h, StartBolt(t, h, opts), programs
}

// Certificates are folders with ca.crt, tls.crt and tls.key, of one authority.
type Certificates struct{ Etcd, NATS, Client string }

// MakeCertificates makes them in a folder of the test, with the script that comes with the Kubernetes overlay. The test is left
// out if this machine has no openssl, which the script takes.
func MakeCertificates(t testing.TB) Certificates {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("this machine has no openssl, with which certificates are made")
	}
	checkout, err := FindCheckout()
	require.NoError(t, err)
	dir := t.TempDir()
	_, err = output(t.Context(), "", checkout.Path("deploy", "overlays", "cluster", "certificates.sh"), dir)
	require.NoError(t, err)
	return Certificates{filepath.Join(dir, "etcd"), filepath.Join(dir, "nats"), filepath.Join(dir, "client")}
}
