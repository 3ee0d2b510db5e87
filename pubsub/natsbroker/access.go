package natsbroker

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
)

// explain names the metadata key because of which the servers refuse a connection, if it is for one of them.
func (o *Options) explain(err error) error {
	refused := func(field, value, allowed string) error {
		return &invalid.Error{Field: field, Value: value, Allowed: fmt.Sprintf("%s (%v)", allowed, err)}
	}
	switch {
	case errors.Is(err, nats.ErrSecureConnWanted):
		return invalid.New("url", o.URL, "servers with TLS, as caCert, clientCert or tls:// say; these have no TLS")
	case !errors.Is(err, nats.ErrAuthorization):
		if tls := servers.ExplainTLS(err, "url", o.URL); tls != nil {
			return tls
		}
		// A server that refuses a certificate closes the connection, and its reason may come too late to be read.
		if errors.Is(err, nats.ErrTLS) {
			return refused("clientCert", "for "+o.URL, "a certificate, with clientKey, that the servers accept")
		}
		return err
	case o.Credentials != "" || o.CredentialsFile != "":
		return refused("credentials", "that is given", "those of a user of the servers")
	case o.Token != "":
		return refused("token", "that is given", "the one in the configuration of the servers")
	case o.Username != "":
		return refused("password", fmt.Sprintf("for username %q", o.Username), "those of a user in the configuration of the servers")
	}
	return refused("username", "that is left out", "a user of the servers with password, token or credentials: they ask who we are")
}
