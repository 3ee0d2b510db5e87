package component

import (
	"context"
	"fmt"
	"path"
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

// bind finds out which state store or pub/sub a call to a service is for: what its connection has initialized or, where that
// was before the last restart, what is made of what was said then. Init and Features are for none.
func (s *Server) bind(ctx context.Context, c *call, service any) (err error) {
	_, method := path.Split(c.method)
	if method == "Init" || method == "Features" {
		return nil
	}
	switch service.(type) {
	case stateService:
		c.store, err = s.boundStateStore(ctx, c)
	case pubsubService:
		c.pubsub, err = s.boundPubSub(ctx, c, method == "PullMessages" || method == "Pause" || method == "Resume")
	}
	return err
}

func (s *Server) boundStateStore(ctx context.Context, c *call) (*stateStore, error) {
	conn := c.conn
	if store := conn.state.Load(); store != nil {
		return store, nil
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
	return conn.state.Load(), nil
}

// boundPubSub returns one of which the connection keeps nothing where it is not known for which consumer group it stands:
// that will do for a call that does not consume.
func (s *Server) boundPubSub(ctx context.Context, c *call, consumes bool) (*pubSub, error) {
	conn := c.conn
	if p := conn.pubsub.Load(); p != nil {
		return p, nil
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
	if err != nil || !sure {
		return p, err
	}
	if conn.pubsub.CompareAndSwap(nil, p) {
		conn.session.Adopt(sidecars.PubSub, c.component)
	}
	return conn.pubsub.Load(), nil
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
