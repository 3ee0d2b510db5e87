package component

import (
	"net/url"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
)

// engineNATS keeps events on NATS JetStream.
const engineNATS = "nats"

// natsConfig says where events are, if not in the file.
type natsConfig struct {
	Engine  string
	Servers servers.NATS
}

var natsFields = []field[natsConfig]{
	{
		Field{"engine", "bolt", "bolt or " + engineNATS, "`bolt`: the events are in the file; `nats`: on NATS JetStream, for [many nodes](cluster.md), with keys of its own"},
		func(c *natsConfig, v string) bool { c.Engine = v; return v == "bolt" || v == engineNATS },
	},
	{
		Field{"url", "", "URLs such as nats://nats-0:4222, with commas between them", "the nats-servers"},
		func(c *natsConfig, v string) bool {
			c.Servers.Endpoints = v
			for one := range strings.SplitSeq(v, ",") {
				if u, err := url.Parse(strings.TrimSpace(one)); err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
					return false
				}
			}
			return true
		},
	},
	{
		Field{"username", "", "text", "who to be for the servers"},
		func(c *natsConfig, v string) bool { c.Servers.Username = v; return true },
	},
	{
		Field{"password", "", "text", "the password of `username`"},
		func(c *natsConfig, v string) bool { c.Servers.Password = v; return true },
	},
	{
		Field{"token", "", "text", "a token in place of `username` and `password`"},
		func(c *natsConfig, v string) bool { c.Servers.Token = v; return true },
	},
	{
		Field{"credentials", "", "a .creds file's path, or its content", "an NKey and JWT in place of those"},
		func(c *natsConfig, v string) bool { c.Servers.Credentials = v; return true },
	},
	{
		Field{"caCert", "", "a file's path, or the PEM itself", "whose certificates the servers must have"},
		func(c *natsConfig, v string) bool { c.Servers.CACert = v; return true },
	},
	{
		Field{"clientCert", "", "a file's path, or the PEM itself", "the certificate to show to the servers"},
		func(c *natsConfig, v string) bool { c.Servers.ClientCert = v; return true },
	},
	{
		Field{"clientKey", "", "a file's path, or the PEM itself", "the key of `clientCert`"},
		func(c *natsConfig, v string) bool { c.Servers.ClientKey = v; return true },
	},
	{
		Field{"prefix", "dapr-bolt", nameAllowed, "begins the names of streams and subjects: installations with different ones share servers and no data"},
		func(c *natsConfig, v string) bool { c.Servers.Prefix = v; return validPrefix.MatchString(v) },
	},
	{
		Field{"replicas", "3", "1, 3 or 5", "on how many servers each event is, from when the stream is made; with `1`, a lost server loses events"},
		func(c *natsConfig, v string) bool {
			return parseWhole(&c.Servers.Replicas, v, 1, 5) && c.Servers.Replicas%2 == 1
		},
	},
	{
		Field{"requestTimeout", "15s", waitAllowed, "how long a call waits for the servers before it fails; a new leader may take 8 seconds"},
		func(c *natsConfig, v string) bool {
			return parseWait(&c.Servers.RequestTimeout, v) && c.Servers.RequestTimeout > 0
		},
	},
}

// place returns where the events are. It refuses what the engine that is asked for cannot keep.
func (c *publisherConfig) place() (servers.Place, error) {
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	switch {
	case c.Events.Engine != engineNATS && c.Events.Servers.Endpoints != "":
		return p, invalid.New("url", c.Events.Servers.Endpoints, "the servers of engine nats, and none for engine bolt")
	case c.Events.Engine != engineNATS:
		return p, nil
	case c.Events.Servers.Endpoints == "":
		return p, invalid.New("url", "", "the servers, as engine is nats")
	case c.Publish.Limits.MaxBytes > 0:
		return p, &invalid.Error{Field: "maxBytes", Value: "above 0", Allowed: "none or 0 with engine nats: JetStream bounds a stream, which holds all topics, and no single one of them; limit the account's storage instead (jetstream.max_file_store)"}
	}
	p.NATS = &c.Events.Servers
	return p, nil
}
