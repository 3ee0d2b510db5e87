package component

import (
	"context"
	"fmt"
	"reflect"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// instanceHeader is where the runtime puts the component's name (pkg/components/pluggable/grpc.go, metadataInstanceID).
const instanceHeader = "x-component-instance"

// maxInitMetadata bounds what one Init may give to remember, in bytes.
const maxInitMetadata = 64 << 10

// checkInitMetadata refuses metadata that are too much to remember.
func checkInitMetadata(properties map[string]string) error {
	size := 0
	for name, value := range properties {
		size += len(name) + len(value)
	}
	if size > maxInitMetadata {
		return invalid.New("metadata", fmt.Sprintf("of %d bytes", size), fmt.Sprintf("at most %d bytes", maxInitMetadata))
	}
	return nil
}

// bindStateStore returns the state store that a call is for: the connection's, or one made of what was said before the last
// restart.
func (s *Server) bindStateStore(ctx context.Context, c *call) (*stateStore, error) {
	conn := c.conn
	if c.store = conn.state.Load(); c.store != nil {
		return c.store, nil
	}
	properties, err := agreed(c.component, conn.session.Find(sidecars.State, c.component), parseStateConfig)
	if err != nil {
		return nil, err
	}
	store, err := s.openStateStore(ctx, c, properties)
	if err != nil {
		return nil, err
	}
	if conn.state.CompareAndSwap(nil, store) {
		conn.session.Adopt(sidecars.State, c.component)
	}
	c.store = conn.state.Load()
	return c.store, nil
}

// bindPubSub returns the pub/sub that a call is for: the connection's, or one made of what was said before the last restart.
// Where that does not tell which consumer group the connection stands for, the pub/sub will do for calls that do not
// consume, and the connection keeps none.
func (s *Server) bindPubSub(ctx context.Context, c *call, consumes bool) (*pubSub, error) {
	conn := c.conn
	if c.pubsub = conn.pubsub.Load(); c.pubsub != nil {
		return c.pubsub, nil
	}
	found := conn.session.Find(sidecars.PubSub, c.component)
	properties, err := agreed(c.component, found, parsePubSubConfig)
	sure := err == nil
	if !sure && !consumes {
		properties, err = agreed(c.component, found, func(properties map[string]string) (publisherConfig, error) {
			config, err := parsePubSubConfig(properties)
			return config.Publisher, err
		})
	}
	if err != nil {
		return nil, err
	}
	p, err := s.openPubSub(ctx, c, properties)
	if err != nil {
		return nil, err
	}
	c.pubsub = p
	if !sure {
		return p, nil
	}
	if conn.pubsub.CompareAndSwap(nil, p) {
		conn.session.Adopt(sidecars.PubSub, c.component)
	}
	c.pubsub = conn.pubsub.Load()
	return c.pubsub, nil
}

// agreed returns the newest metadata, if all that was found means the same configuration.
func agreed[C any](component string, found []map[string]string, parse func(map[string]string) (C, error)) (map[string]string, error) {
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: it is not known that this sidecar has called Init for component %q; restart the sidecar", ErrNotInitialized, component)
	}
	newest, err := parse(found[0])
	if err != nil {
		return nil, err
	}
	for _, properties := range found[1:] {
		if c, err := parse(properties); err != nil || !reflect.DeepEqual(c, newest) {
			return nil, fmt.Errorf("%w: sidecars have initialized component %q with different metadata, and which of them this one is cannot be told since this process was started anew; restart the sidecar",
				ErrNotInitialized, component)
		}
	}
	return found[0], nil
}
