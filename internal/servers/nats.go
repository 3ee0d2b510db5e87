package servers

import (
	"os"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// NATS says where nats-servers are, how to get in, and how what is kept there is replicated.
type NATS struct {
	// Access has the servers' URLs as Endpoints. Its DialTimeout has no meaning.
	Access
	// Token and Credentials (a .creds file's path, or its content) are other ways to get in; empty: not these.
	Token, Credentials string
	Replicas           int
}

// CredentialsIn returns what Credentials says: the content, or the path of a file that can be read now.
func (n *NATS) CredentialsIn() (text, file string, err error) {
	if n.Credentials == "" || strings.Contains(n.Credentials, "-----BEGIN ") {
		return n.Credentials, "", nil
	}
	if _, err := os.ReadFile(n.Credentials); err != nil {
		return "", "", &invalid.Error{Field: "credentials", Value: "that is given", Allowed: "a .creds file that can be read, or its content"}
	}
	return "", n.Credentials, nil
}
