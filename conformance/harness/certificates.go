package harness

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

// Certificates are folders with ca.crt, tls.crt and tls.key, of one authority.
type Certificates struct{ Etcd, NATS, Client string }

// MakeCertificates makes them in dir with the script that comes with the Kubernetes overlay, which takes openssl.
func (c Checkout) MakeCertificates(ctx context.Context, dir string) (Certificates, error) {
	out, err := exec.CommandContext(ctx, c.Path("deploy", "overlays", "cluster", "certificates.sh"), dir).CombinedOutput()
	if err != nil {
		return Certificates{}, fmt.Errorf("certificates.sh: %w: %s", err, out)
	}
	folder := func(name string) string { return filepath.Join(dir, name) }
	return Certificates{folder("etcd"), folder("nats"), folder("client")}, nil
}

// MakeCertificates is Checkout.MakeCertificates for a test, in a folder of its own. The test is left out if this machine has
// no openssl.
func MakeCertificates(t testing.TB) Certificates {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("this machine has no openssl, with which certificates are made")
	}
	checkout, err := FindCheckout()
	if err != nil {
		t.Fatal(err)
	}
	all, err := checkout.MakeCertificates(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return all
}
