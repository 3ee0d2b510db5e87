package component

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/dapr/components-contrib/metadata"
	contribpubsub "github.com/dapr/components-contrib/pubsub"
	contribstate "github.com/dapr/components-contrib/state"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// instanceHeader is where the runtime puts the component's name (pkg/components/pluggable/grpc.go, metadataInstanceID).
const instanceHeader = "x-component-instance"

// kinds says which component a gRPC service belongs to.
var kinds = map[string]sidecars.Kind{
	proto.StateStore_ServiceDesc.ServiceName:                     sidecars.State,
	proto.TransactionalStateStore_ServiceDesc.ServiceName:        sidecars.State,
	proto.QueriableStateStore_ServiceDesc.ServiceName:            sidecars.State,
	proto.TransactionalStoreMultiMaxSize_ServiceDesc.ServiceName: sidecars.State,
	proto.PubSub_ServiceDesc.ServiceName:                         sidecars.PubSub,
}

func kindOf(method string) sidecars.Kind {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return kinds[service]
}

// consuming are the methods for which it matters which consumer group a pub/sub's connection stands for.
var consuming = map[string]bool{
	proto.PubSub_PullMessages_FullMethodName: true,
	proto.PubSub_Pause_FullMethodName:        true,
	proto.PubSub_Resume_FullMethodName:       true,
}

// answer finds the instance that a call is for, makes it on Init, and lets it answer.
func (s *Server) answer(ctx context.Context, c *call, req any, handler grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	case *proto.InitRequest:
		c.store = s.newStateStore(c)
		return s.initialize(ctx, c, req, sidecars.State, r.GetMetadata().GetProperties(), handler)
	case *proto.PubSubInitRequest:
		c.pubsub = s.newPubSub(c)
		return s.initialize(ctx, c, req, sidecars.PubSub, r.GetMetadata().GetProperties(), handler)
	}
	if err := s.bind(ctx, c); err != nil {
		return nil, err
	}
	return correctUnary(ctx, c, req, handler)
}

func (s *Server) newStateStore(c *call) *StateStore {
	return NewStateStore(s.opts.Backend, s.componentOptions(c))
}

func (s *Server) newPubSub(c *call) *PubSub { return NewPubSub(s.opts.Backend, s.componentOptions(c)) }

func (s *Server) componentOptions(c *call) ComponentOptions {
	opts := s.opts.ComponentOptions
	opts.Logger = opts.Logger.With("component", c.component)
	return opts
}

// maxInitMetadata bounds what one Init may give to remember, in bytes.
const maxInitMetadata = 64 << 10

// initialize lets the SDK call Init of the call's new instance, notes what it said, and gives the instance to the
// connection.
func (s *Server) initialize(ctx context.Context, c *call, req any, k sidecars.Kind, properties map[string]string, handler grpc.UnaryHandler) (any, error) {
	size := 0
	for name, value := range properties {
		size += len(name) + len(value)
	}
	if size > maxInitMetadata {
		return nil, invalid.New("metadata", fmt.Sprintf("of %d bytes", size), fmt.Sprintf("at most %d bytes", maxInitMetadata))
	}
	answer, err := correctUnary(ctx, c, req, handler)
	if err != nil {
		return nil, err
	}
	c.conn.session.Initialized(k, c.component, properties)
	if k == sidecars.State {
		c.conn.state.Store(c.store)
	} else {
		c.conn.pubsub.Store(c.pubsub)
	}
	return answer, nil
}

// bind finds the instance that a call is for. What a component can do does not depend on its Init.
func (s *Server) bind(ctx context.Context, c *call) (err error) {
	switch kind := kindOf(c.method); {
	case c.method == proto.StateStore_Features_FullMethodName:
		c.store = s.newStateStore(c)
	case c.method == proto.PubSub_Features_FullMethodName:
		c.pubsub = s.newPubSub(c)
	case kind == sidecars.State:
		c.store, err = s.stateStore(ctx, c)
	case kind == sidecars.PubSub:
		c.pubsub, err = s.boundPubSub(ctx, c)
	}
	return err
}

// stateStore returns the connection's instance, or makes one of what was said before the last restart.
func (s *Server) stateStore(ctx context.Context, c *call) (*StateStore, error) {
	conn := c.conn
	if store := conn.state.Load(); store != nil {
		return store, nil
	}
	properties, err := agreed(c.component, conn.session.Find(sidecars.State, c.component), parseStateConfig)
	if err != nil {
		return nil, err
	}
	store := s.newStateStore(c)
	if err := store.Init(ctx, contribstate.Metadata{Base: metadata.Base{Properties: properties}}); err != nil {
		return nil, err
	}
	if conn.state.CompareAndSwap(nil, store) {
		conn.session.Adopt(sidecars.State, c.component)
	}
	return conn.state.Load(), nil
}

// boundPubSub returns the connection's instance, or makes one of what was said before the last restart. Where that does
// not tell which consumer group the connection stands for, the instance will do for calls that do not consume, and the
// connection keeps none.
func (s *Server) boundPubSub(ctx context.Context, c *call) (*PubSub, error) {
	conn := c.conn
	if p := conn.pubsub.Load(); p != nil {
		return p, nil
	}
	found := conn.session.Find(sidecars.PubSub, c.component)
	properties, err := agreed(c.component, found, parsePubSubConfig)
	sure := err == nil
	if !sure && !consuming[c.method] {
		properties, err = agreed(c.component, found, func(properties map[string]string) (publisherConfig, error) {
			config, err := parsePubSubConfig(properties)
			return config.Publisher, err
		})
	}
	if err != nil {
		return nil, err
	}
	p := s.newPubSub(c)
	if err := p.Init(ctx, contribpubsub.Metadata{Base: metadata.Base{Properties: properties}}); err != nil {
		return nil, err
	}
	if !sure {
		return p, nil
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
