// Package servers describes servers that keep data in place of files, as a component's metadata names them.
package servers

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// Defaults of Access.
const (
	DefaultPrefix         = "dapr-bolt"
	DefaultDialTimeout    = 5 * time.Second
	DefaultRequestTimeout = 5 * time.Second
)

// Access says where servers are and how to get in. Equal Accesses are the same connection.
type Access struct {
	// Endpoints are the servers' URLs, with commas between them.
	Endpoints string
	// Username and Password are empty for servers without authentication.
	Username, Password string
	// CACert, ClientCert and ClientKey are each a file's path or the PEM itself; empty: the system's authorities, no
	// certificate of our own.
	CACert, ClientCert, ClientKey string
	// Prefix begins the names of all that is kept there.
	Prefix string
	// DialTimeout and RequestTimeout bound connecting and each request.
	DialTimeout, RequestTimeout time.Duration
}

// Label is what people call a database on servers: it must not be taken for a file. system is etcd or nats;
// DefaultDatabase is left out.
func Label(system, prefix, database string) string {
	label := system + "-" + prefix
	if database != DefaultDatabase {
		label += "-" + database
	}
	return label
}

// List returns the endpoints.
func (a *Access) List() (list []string) {
	for _, endpoint := range strings.Split(a.Endpoints, ",") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			list = append(list, endpoint)
		}
	}
	return list
}

// EachTLS returns TLS for each connection to call, which is to go by the files as they are then: certificates are replaced
// before they expire, those of authorities too. nil: no TLS. The error is that of TLS now.
func (a *Access) EachTLS() (func() (*tls.Config, error), error) {
	config, err := a.TLS()
	if config == nil {
		return nil, err
	}
	return a.TLS, nil
}

// TLS returns what CACert, ClientCert and ClientKey say; nil: nothing. What cannot be read is an invalid.Error that names
// the metadata key. A certificate of our own that is in files is read anew for each connection, since it is replaced before it
// expires.
func (a *Access) TLS() (*tls.Config, error) {
	if a.CACert == "" && a.ClientCert == "" && a.ClientKey == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CACert != "" {
		pem, err := read("caCert", a.CACert)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &invalid.Error{Field: "caCert", Value: "without a certificate", Allowed: "a file with certificates in PEM, or the PEM itself"}
		}
	}
	if (a.ClientCert == "") != (a.ClientKey == "") {
		return nil, &invalid.Error{Field: "clientCert", Value: "alone or without clientKey", Allowed: "clientCert and clientKey together, or neither"}
	}
	if a.ClientCert != "" {
		if _, err := a.clientPair(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.clientPair() }
	}
	return config, nil
}

func (a *Access) clientPair() (*tls.Certificate, error) {
	cert, err := read("clientCert", a.ClientCert)
	if err != nil {
		return nil, err
	}
	key, err := read("clientKey", a.ClientKey)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, &invalid.Error{Field: "clientCert", Value: "with its clientKey", Allowed: fmt.Sprintf("a pair in PEM (%v)", err)}
	}
	return &pair, nil
}

// read returns the PEM of a value, which is a file's path if it is not the PEM itself. What it says of a value that is
// neither does not show the value: it may be a key.
func read(field, value string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(value), "-----BEGIN ") {
		return []byte(value), nil
	}
	pem, err := os.ReadFile(value)
	if err != nil {
		return nil, &invalid.Error{Field: field, Value: fmt.Sprintf("of %d bytes", len(value)),
			Allowed: "a file that can be read, with PEM in it, or the PEM itself"}
	}
	return pem, nil
}
