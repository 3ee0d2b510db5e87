package component

import (
	"fmt"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// engineNATS keeps events on NATS JetStream.
const engineNATS = "nats"

// eventsEngine says where the events are.
var eventsEngine = []field[publisherConfig]{
	newField("engine", engineBolt, oneOf(engineBolt, engineNATS), func(c *publisherConfig) *string { return &c.Engine },
		"`bolt`: the events are in the file; `nats`: on NATS JetStream, for [many nodes](cluster.md), with keys of its own"),
}

// natsFields are the keys of engineNATS. They have no effect on another engine.
var natsFields = []field[publisherConfig]{
	newField("url", "", urls("nats://nats-0:4222", "nats", "tls"), func(c *publisherConfig) *string { return &c.Servers.Endpoints },
		"the nats-servers"),
	newField("username", "", kindText, func(c *publisherConfig) *string { return &c.Servers.Username },
		"who to be for the servers"),
	newField("password", "", kindText, func(c *publisherConfig) *string { return &c.Servers.Password },
		"the password of `username`"),
	newField("token", "", kindText, func(c *publisherConfig) *string { return &c.Servers.Token },
		"a token in place of `username` and `password`"),
	newField("credentials", "", kind[string]{"a .creds file's path, or its content", anyText}, func(c *publisherConfig) *string { return &c.Servers.Credentials },
		"an NKey and JWT in place of those"),
	newField("caCert", "", kindPEM, func(c *publisherConfig) *string { return &c.Servers.CACert },
		"whose certificates the servers must have"),
	newField("clientCert", "", kindPEM, func(c *publisherConfig) *string { return &c.Servers.ClientCert },
		"the certificate to show to the servers"),
	newField("clientKey", "", kindPEM, func(c *publisherConfig) *string { return &c.Servers.ClientKey },
		"the key of `clientCert`"),
	newField("prefix", servers.DefaultPrefix, kindPrefix, func(c *publisherConfig) *string { return &c.Servers.Prefix },
		"begins the names of streams and subjects: installations with different ones share servers and no data"),
	newField("replicas", "3", kind[int]{"1, 3 or 5", func(value string) (int, bool) {
		n, ok := wholeNumbers(1, 5)(value)
		return n, ok && n%2 == 1
	}}, func(c *publisherConfig) *int { return &c.Servers.Replicas },
		"on how many servers each event is, from when the stream is made; with `1`, a lost server loses events"),
	newField("requestTimeout", "15s", kind[time.Duration]{
		fmt.Sprintf("a duration above 0, up to %d seconds", pubsub.MaxWait/time.Second),
		durations(1, pubsub.MaxWait),
	}, func(c *publisherConfig) *time.Duration { return &c.Servers.RequestTimeout },
		"how long a call waits for the servers before it fails; a new leader may take 8 seconds"),
}

// place returns where the events are. It refuses what the engine that is asked for cannot keep.
func (c *publisherConfig) place() (servers.Place, error) {
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	switch {
	case c.Engine != engineNATS && c.Servers.Endpoints != "":
		return p, invalid.New("url", c.Servers.Endpoints, "the servers of engine nats, and none for engine bolt")
	case c.Engine != engineNATS:
		return p, nil
	case c.Servers.Endpoints == "":
		return p, invalid.New("url", "", "the servers, as engine is nats")
	}
	p.NATS = &c.Servers
	return p, nil
}
