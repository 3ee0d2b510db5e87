package etcdengine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
)

// checkTLS asks the servers for their health until one answers. If TLS is why none of them can be asked, it returns an
// invalid.Error: the client of etcd tries again until its time is up, and then does not say why.
func (c *Cluster) checkTLS(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config, err := c.access.TLS()
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	errs := make([]error, len(c.endpoints))
	var group sync.WaitGroup
	for i, endpoint := range c.endpoints {
		group.Go(func() {
			if errs[i] = checkTLS(ctx, &client, endpoint); errs[i] == nil {
				cancel()
			}
		})
	}
	group.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return errs[0]
}

func checkTLS(ctx context.Context, client *http.Client, endpoint string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/health", nil)
	if err != nil {
		return invalid.New("endpoints", endpoint, "a URL such as https://etcd-0:2379")
	}
	response, err := client.Do(request)
	if err == nil {
		return response.Body.Close()
	}
	if request.URL.Scheme == "http" && talksTLS(ctx, request.URL.Host) {
		return invalid.New("endpoints", endpoint, "https://, as this server talks TLS")
	}
	return servers.ExplainTLS(err, "endpoints", endpoint)
}

// eachTLS are the credentials of connections each of which calls config.
type eachTLS struct {
	credentials.TransportCredentials
	config func() (*tls.Config, error)
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *eachTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := t.config()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (t *eachTLS) Clone() credentials.TransportCredentials { return t }

func talksTLS(ctx context.Context, address string) bool {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // nothing is sent
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// explain names the metadata key because of which the servers refuse a request, and otherwise is wrap.
func (c *Cluster) explain(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return &invalid.Error{Field: "password", Value: fmt.Sprintf("for username %q", c.access.Username), Allowed: "those of a user of etcd (etcdctl user list)"}
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return invalid.New("username", c.access.Username, "a user of etcd, with password: the servers ask for one")
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return invalid.New("username", c.access.Username, fmt.Sprintf("a user with a role that may use the keys that begin with %[1]s/ (etcdctl role grant-permission ROLE readwrite --prefix=true %[1]s/)", c.access.Prefix))
	}
	return wrap(err)
}
