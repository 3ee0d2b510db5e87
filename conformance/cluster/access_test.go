package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// settings are a component's metadata.
type settings map[string]string

// with returns other settings, of which an empty one is left out.
func (s settings) with(pairs ...string) settings {
	s = maps.Clone(s)
	for i := 0; i < len(pairs); i += 2 {
		if s[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(s, pairs[i])
		}
	}
	return s
}

func (s settings) pairs() (list []string) {
	for key, value := range s {
		list = append(list, key, value)
	}
	return list
}

// newClient speaks with a dapr-bolt as a sidecar would.
func newClient(t *testing.T, bolt *harness.Bolt) *harness.Client {
	t.Helper()
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "c")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// refused wants Init to fail with an error that names the field.
func refused(t *testing.T, err error, field string, says ...string) {
	t.Helper()
	require.Error(t, err)
	t.Logf("%s: %s", field, status.Convert(err).Message())
	require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	require.ErrorContains(t, err, "invalid "+field)
	for _, text := range says {
		require.ErrorContains(t, err, text)
	}
}

func pem(t *testing.T, folder, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, file))
	require.NoError(t, err)
	return string(text)
}

// Servers as they are shipped: TLS, certificates of clients, and then users.
func TestAccessToEtcd(t *testing.T) {
	t.Parallel()
	certificates, others := harness.MakeCertificates(t), harness.MakeCertificates(t)
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{
		Certificates: certificates.Etcd,
		Args:         append([]string{"--client-cert-auth", "--peer-client-cert-auth"}, harness.EtcdSettings...),
	})
	c := newClient(t, harness.StartBolt(t, h, harness.BoltOptions{}))
	good := settings{
		"engine": "etcd", "endpoints": etcd.Endpoints(), "dialTimeout": "1m", "requestTimeout": "1m",
		"caCert":     filepath.Join(certificates.Client, "ca.crt"),
		"clientCert": filepath.Join(certificates.Client, "tls.crt"),
		"clientKey":  filepath.Join(certificates.Client, "tls.key"),
	}
	init := func(s settings) error { return c.InitState(t.Context(), s.pairs()...) }
	works := func(s settings, value string) {
		t.Helper()
		require.NoError(t, init(s))
		require.NoError(t, c.Set(t.Context(), "k", []byte(value)))
		got, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, value, string(got))
	}

	works(good, "files")
	works(good.with("caCert", pem(t, certificates.Client, "ca.crt"), "clientCert", pem(t, certificates.Client, "tls.crt"),
		"clientKey", pem(t, certificates.Client, "tls.key")), "the secret's values")
	refused(t, init(good.with("caCert", filepath.Join(others.Client, "ca.crt"))), "caCert", "unknown authority")
	refused(t, init(good.with("caCert", "")), "caCert", "unknown authority")
	refused(t, init(good.with("clientCert", "", "clientKey", "")), "clientCert", "certificate")
	refused(t, init(good.with("clientCert", filepath.Join(others.Client, "tls.crt"), "clientKey", filepath.Join(others.Client, "tls.key"))), "clientCert", "certificate")
	refused(t, init(good.with("endpoints", strings.ReplaceAll(etcd.Endpoints(), "https://", "http://"), "caCert", "", "clientCert", "", "clientKey", "")), "endpoints", "https")

	makeUser(t, etcd, certificates, "bolt", "secret")
	users := good.with("username", "bolt", "password", "secret")
	works(users, "a user")
	refused(t, init(users.with("password", "wrong")), "password", "bolt")
	refused(t, init(users.with("username", "nobody")), "password", "nobody")
	refused(t, init(users.with("prefix", "other")), "username", "other/")
}

// makeUser makes etcd ask for users, and a user who may use the keys of dapr-bolt's prefix alone.
func makeUser(t *testing.T, etcd *harness.Etcd, certificates harness.Certificates, name, password string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(certificates.Client, "tls.crt"), filepath.Join(certificates.Client, "tls.key"))
	require.NoError(t, err)
	authorities := x509.NewCertPool()
	require.True(t, authorities.AppendCertsFromPEM([]byte(pem(t, certificates.Client, "ca.crt"))))
	client, err := clientv3.New(clientv3.Config{
		Endpoints: strings.Split(etcd.Endpoints(), ","),
		TLS:       &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authorities},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	must := func(_ any, err error) { t.Helper(); require.NoError(t, err) }
	must(client.UserAdd(t.Context(), "root", "rootsecret"))
	must(client.UserGrantRole(t.Context(), "root", "root"))
	must(client.RoleAdd(t.Context(), "dapr-bolt"))
	must(client.RoleGrantPermission(t.Context(), "dapr-bolt", "dapr-bolt/", clientv3.GetPrefixRangeEnd("dapr-bolt/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(client.UserAdd(t.Context(), name, password))
	must(client.UserGrantRole(t.Context(), name, "dapr-bolt"))
	must(client.AuthEnable(t.Context()))
}

// Servers with TLS and users, certificates of clients, a token, and a decentralized account.
func TestAccessToNATS(t *testing.T) {
	t.Parallel()
	certificates, others := harness.MakeCertificates(t), harness.MakeCertificates(t)
	h := harness.ForTest(t)
	c := newClient(t, harness.StartBolt(t, h, harness.BoltOptions{}))
	init := func(s settings) error { return c.InitPubSub(t.Context(), s.pairs()...) }
	works := func(s settings) {
		t.Helper()
		require.NoError(t, init(s))
		require.NoError(t, c.Publish(t.Context(), "t", "1", []byte("x")))
	}

	t.Run("certificates and users", func(t *testing.T) {
		nats := harness.StartNATS(t, h, harness.ClusterOptions{Config: tlsConfig(certificates, true) + "authorization { user: bolt, password: secret }"})
		good := settings{
			"engine": "nats", "url": nats.URL(), "consumerID": "g", "requestTimeout": "1m", "username": "bolt", "password": "secret",
			"caCert":     filepath.Join(certificates.Client, "ca.crt"),
			"clientCert": filepath.Join(certificates.Client, "tls.crt"),
			"clientKey":  filepath.Join(certificates.Client, "tls.key"),
		}
		works(good)
		works(good.with("url", strings.ReplaceAll(nats.URL(), "nats://", "tls://")))
		refused(t, init(good.with("password", "wrong")), "password", "bolt")
		refused(t, init(good.with("username", "", "password", "")), "username")
		refused(t, init(good.with("caCert", filepath.Join(others.Client, "ca.crt"))), "caCert", "unknown authority")
		refused(t, init(good.with("clientCert", "", "clientKey", "")), "clientCert", "certificate")
		refused(t, init(good.with("clientCert", filepath.Join(others.Client, "tls.crt"), "clientKey", filepath.Join(others.Client, "tls.key"))), "clientCert", "certificate")
		refused(t, init(good.with("caCert", "", "clientCert", "", "clientKey", "")), "caCert", "unknown authority")
	})
	t.Run("token", func(t *testing.T) {
		nats := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Config: "authorization { token: secret }"})
		good := settings{"engine": "nats", "url": nats.URL(), "consumerID": "g", "requestTimeout": "1m", "replicas": "1", "token": "secret"}
		works(good)
		refused(t, init(good.with("token", "wrong")), "token")
		refused(t, init(good.with("caCert", filepath.Join(certificates.Client, "ca.crt"))), "url", "no TLS")
	})
	t.Run("account", func(t *testing.T) {
		account, other := makeAccount(t), makeAccount(t)
		credentials := account.credentials(t)
		nats := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1, Config: account.config})
		good := settings{"engine": "nats", "url": nats.URL(), "consumerID": "g", "requestTimeout": "1m", "replicas": "1", "credentials": credentials}
		works(good)
		file := filepath.Join(t.TempDir(), "bolt.creds")
		require.NoError(t, os.WriteFile(file, []byte(credentials), 0o600))
		works(good.with("credentials", file))
		refused(t, init(good.with("credentials", other.credentials(t))), "credentials")
		refused(t, init(good.with("credentials", "")), "username")
		refused(t, init(good.with("credentials", file+".missing")), "credentials")
	})
}

// account is a decentralized one: a server's configuration, and who signs its users.
type account struct {
	config string
	keys   nkeys.KeyPair
}

func makeKeys(t *testing.T, make func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string) {
	t.Helper()
	pair, err := make()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	return pair, public
}

// makeAccount makes an operator with one account.
func makeAccount(t *testing.T) *account {
	t.Helper()
	operator, operatorID := makeKeys(t, nkeys.CreateOperator)
	_, systemID := makeKeys(t, nkeys.CreateAccount)
	systemToken, err := jwt.NewAccountClaims(systemID).Encode(operator)
	require.NoError(t, err)
	keys, id := makeKeys(t, nkeys.CreateAccount)
	operatorToken, err := jwt.NewOperatorClaims(operatorID).Encode(operator)
	require.NoError(t, err)
	claims := jwt.NewAccountClaims(id)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	token, err := claims.Encode(operator)
	require.NoError(t, err)
	return &account{keys: keys, config: fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %[2]s: %s, %s: %s }\n",
		operatorToken, systemID, systemToken, id, token)}
}

// credentials makes a user, and returns what a .creds file has of it.
func (a *account) credentials(t *testing.T) string {
	t.Helper()
	user, id := makeKeys(t, nkeys.CreateUser)
	token, err := jwt.NewUserClaims(id).Encode(a.keys)
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	file, err := jwt.FormatUserConfig(token, seed)
	require.NoError(t, err)
	return string(file)
}
