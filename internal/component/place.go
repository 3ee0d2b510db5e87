package component

import "github.com/dapr-bolt/dapr-bolt/internal/servers"

// StatePlace returns where a state store with that metadata keeps its data.
func StatePlace(properties map[string]string) (servers.Place, error) {
	c, err := parseStateConfig(properties)
	if err == nil {
		err = c.check()
	}
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	if c.Engine == engineEtcd {
		p.Etcd = &c.Servers
	}
	return p, err
}

// PubSubPlace returns where a pub/sub with that metadata keeps its data.
func PubSubPlace(properties map[string]string) (servers.Place, error) {
	config, err := parsePubSubConfig(properties)
	c := &config.Publisher
	if err == nil {
		err = c.check()
	}
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	if c.Events.Engine == engineNATS {
		p.NATS = &c.Events.Servers
	}
	return p, err
}
