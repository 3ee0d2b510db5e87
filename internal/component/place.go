package component

import "github.com/dapr-bolt/dapr-bolt/internal/servers"

// StatePlace returns where a state store with that metadata keeps its data.
func StatePlace(properties map[string]string) (servers.Place, error) {
	c, err := parseStateConfig(properties)
	if err != nil {
		return servers.Place{}, err
	}
	return c.place()
}

// PubSubPlace returns where a pub/sub with that metadata keeps its data.
func PubSubPlace(properties map[string]string) (servers.Place, error) {
	c, err := parsePubSubConfig(properties)
	if err != nil {
		return servers.Place{}, err
	}
	return c.Publisher.place()
}
