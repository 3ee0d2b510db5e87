package servers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// ExplainTLS returns an invalid.Error that names the metadata key because of which a TLS handshake with a server failed, or nil
// if err is something else. The key urls is the one that says where the servers are.
func ExplainTLS(err error, urls, url string) error {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		cert      *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		remote    *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return &invalid.Error{Field: "caCert", Value: "for " + url, Allowed: fmt.Sprintf("the certificate of the authority that signed the servers' (%v)", err)}
	case errors.As(err, &host):
		return invalid.New(urls, url, fmt.Sprintf("a host that the server's certificate names (%v)", err))
	case errors.As(err, &cert):
		return invalid.New(urls, url, fmt.Sprintf("a server with a certificate that is valid (%v)", err))
	case errors.As(err, &record):
		return invalid.New(urls, url, "a server that talks TLS: this one does not, so say http:// or nats://, without caCert and clientCert")
	case errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "certificate"):
		return &invalid.Error{Field: "clientCert", Value: "for " + url, Allowed: fmt.Sprintf("a certificate, with clientKey, that the servers accept (%v)", err)}
	}
	return nil
}
