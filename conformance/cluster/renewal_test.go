package cluster_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// replaceFiles gives each file of a folder the content of the one of that name in another folder.
func replaceFiles(t *testing.T, folder, with string) {
	t.Helper()
	for _, file := range []string{"ca.crt", "tls.crt", "tls.key"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte(pem(t, with, file)), 0o600))
	}
}

// goesOn waits until a call succeeds.
func goesOn(t *testing.T, call func(ctx context.Context) error) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = call(ctx)
		return err == nil
	}, waitLong, waitStep, "%v", &err)
}

// Certificates are replaced in their files, those of the authority too, and the servers come back with others: a process that
// runs goes on.
func TestRenewedCertificates(t *testing.T) {
	t.Parallel()
	certificates, renewed := harness.MakeCertificates(t), harness.MakeCertificates(t)
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{
		Servers: 1, Certificates: certificates.Etcd,
		Args: append([]string{"--client-cert-auth", "--peer-client-cert-auth"}, harness.EtcdSettings...),
	})
	nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1, Config: tlsConfig(certificates, true)})
	c := newClient(t, harness.StartBolt(t, h, harness.BoltOptions{}))
	files := settings{
		"caCert":     filepath.Join(certificates.Client, "ca.crt"),
		"clientCert": filepath.Join(certificates.Client, "tls.crt"),
		"clientKey":  filepath.Join(certificates.Client, "tls.key"),
	}
	require.NoError(t, c.InitState(t.Context(), files.with("engine", "etcd", "endpoints", etcd.Endpoints(), "dialTimeout", "1m", "requestTimeout", "1m").pairs()...))
	require.NoError(t, c.InitPubSub(t.Context(), files.with("engine", "nats", "url", nats.URL(), "consumerID", "g", "requestTimeout", "1m", "replicas", "1").pairs()...))
	set := func(ctx context.Context) error { return c.Set(ctx, "k", []byte("v")) }
	publish := func(ctx context.Context) error { return c.Publish(ctx, "t", "1", []byte("x")) }
	goesOn(t, set)
	goesOn(t, publish)

	for _, server := range []*harness.Process{etcd.Servers[0].Process, nats.Servers[0].Process} {
		server.Kill()
	}
	replaceFiles(t, certificates.Etcd, renewed.Etcd)
	replaceFiles(t, certificates.NATS, renewed.NATS)
	replaceFiles(t, certificates.Client, renewed.Client)
	for _, server := range []*harness.Process{etcd.Servers[0].Process, nats.Servers[0].Process} {
		require.NoError(t, server.Start())
	}
	goesOn(t, set)
	goesOn(t, publish)
}

// Credentials are replaced in their file, and the servers take no others: a process that runs goes on.
func TestRenewedCredentials(t *testing.T) {
	t.Parallel()
	account, renewed := makeAccount(t), makeAccount(t)
	h := harness.ForTest(t)
	nats := harness.StartNATS(t, h, harness.ClusterOptions{Servers: 1, Config: account.config})
	c := newClient(t, harness.StartBolt(t, h, harness.BoltOptions{}))
	file := filepath.Join(t.TempDir(), "bolt.creds")
	require.NoError(t, os.WriteFile(file, []byte(account.credentials(t)), 0o600))
	require.NoError(t, c.InitPubSub(t.Context(), "engine", "nats", "url", nats.URL(), "consumerID", "g", "requestTimeout", "1m", "replicas", "1", "credentials", file))
	require.NoError(t, c.Publish(t.Context(), "t", "1", []byte("x")))

	server := nats.Servers[0]
	server.Kill()
	config, err := os.ReadFile(server.Dir + ".conf")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(server.Dir+".conf", []byte(strings.Replace(string(config), account.config, renewed.config, 1)), 0o600))
	require.NoError(t, os.WriteFile(file, []byte(renewed.credentials(t)), 0o600))
	require.NoError(t, server.Start())
	// The other account has a stream of its own.
	require.NoError(t, newClient(t, harness.StartBolt(t, h, harness.BoltOptions{Name: "other", DataDir: h.Dir("other"), SocketDir: filepath.Join(h.SocketDir(), "other")})).
		InitPubSub(t.Context(), "engine", "nats", "url", nats.URL(), "consumerID", "g", "requestTimeout", "1m", "replicas", "1", "credentials", file))
	goesOn(t, func(ctx context.Context) error { return c.Publish(ctx, "t", "2", []byte("x")) })
}

func tlsConfig(certificates harness.Certificates, verify bool) string {
	return fmt.Sprintf("tls { ca_file: %q, cert_file: %q, key_file: %q, verify: %t }\n", filepath.Join(certificates.NATS, "ca.crt"),
		filepath.Join(certificates.NATS, "tls.crt"), filepath.Join(certificates.NATS, "tls.key"), verify)
}
