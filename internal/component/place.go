package component

import (
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
)

// StatePlace returns where a state store with that metadata keeps its data.
func StatePlace(properties map[string]string, d Defaults) (p servers.Place, err error) {
	c, err := parseStateConfig(properties, d)
	if err == nil {
		err = c.check(d)
	}
	p.Database, p.Bucket = c.Database, c.Bucket
	if c.Engine == engineEtcd {
		p.Etcd = &servers.Access{}
		*p.Etcd = c.Servers
	}
	return p, err
}

// PubSubPlace returns where a pub/sub with that metadata keeps its data.
func PubSubPlace(properties map[string]string, d Defaults) (p servers.Place, err error) {
	c, err := parsePubSubConfig(properties, d)
	if err == nil {
		err = c.Publisher.check()
	}
	p.Database, p.Bucket = c.Publisher.Database, c.Publisher.Bucket
	if c.Publisher.Events.Engine == engineNATS {
		p.NATS = &servers.NATS{}
		*p.NATS = c.Publisher.Events.Servers
	}
	return p, err
}
