package component

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	contribstate "github.com/dapr/components-contrib/state"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

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

// static are the methods whose answer is the same for every instance, initialized or not.
var static = map[string]bool{
	proto.StateStore_Features_FullMethodName:                         true,
	proto.PubSub_Features_FullMethodName:                             true,
	proto.TransactionalStoreMultiMaxSize_MultiMaxSize_FullMethodName: true,
}

// consuming are the methods for which it matters which consumer group a pub/sub's connection stands for.
var consuming = map[string]bool{
	proto.PubSub_PullMessages_FullMethodName: true,
	proto.PubSub_Pause_FullMethodName:        true,
	proto.PubSub_Resume_FullMethodName:       true,
}

func componentName(ctx context.Context) string {
	if names := metadata.ValueFromIncomingContext(ctx, instanceHeader); len(names) > 0 {
		return names[0]
	}
	return ""
}

type boundStateKey struct{}

type boundPubSubKey struct{}

// boundStateStore returns the instance that a call is for; the interceptors have seen to it that there is one.
func boundStateStore(ctx context.Context) *StateStore {
	store, _ := ctx.Value(boundStateKey{}).(*StateStore)
	return store
}

func boundPubSub(ctx context.Context) *PubSub {
	p, _ := ctx.Value(boundPubSubKey{}).(*PubSub)
	return p
}

// bindUnary finds the instance that a call is for, and makes it on Init.
func (s *Server) bindUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	case *proto.InitRequest:
		store := NewStateStore(s.opts.Backend, s.componentOptions(ctx))
		return s.initialize(ctx, req, sidecars.State, r.GetMetadata(), boundStateKey{}, store, handler, func(c *connection) { c.state = store })
	case *proto.PubSubInitRequest:
		p := NewPubSub(s.opts.Backend, s.componentOptions(ctx))
		return s.initialize(ctx, req, sidecars.PubSub, r.GetMetadata(), boundPubSubKey{}, p, handler, func(c *connection) { c.pubsub = p })
	}
	ctx, err := s.bind(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) bindStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if kindOf(info.FullMethod) == "" {
		return handler(srv, stream)
	}
	ctx, err := s.bind(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, &boundStream{stream, ctx})
}

type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *boundStream) Context() context.Context { return s.ctx }

// maxInitMetadata bounds what one Init may give to remember, in bytes.
const maxInitMetadata = 64 << 10

// initialize lets the SDK call Init of a new instance, notes what it said, and gives the instance to the connection.
func (s *Server) initialize(ctx context.Context, req any, k sidecars.Kind, md *proto.MetadataRequest, key, component any, handler grpc.UnaryHandler, install func(*connection)) (any, error) {
	conn := connectionOf(ctx)
	if conn == nil {
		return nil, errNoConnection
	}
	size := 0
	for name, value := range md.GetProperties() {
		size += len(name) + len(value)
	}
	if size > maxInitMetadata {
		return nil, &ValueError{Field: "metadata", Value: fmt.Sprintf("of %d bytes", size), Allowed: fmt.Sprintf("at most %d bytes", maxInitMetadata)}
	}
	answer, err := handler(context.WithValue(ctx, key, component), req)
	if err != nil {
		return nil, err
	}
	conn.session.Initialized(k, componentName(ctx), md.GetProperties())
	conn.mu.Lock()
	install(conn)
	conn.mu.Unlock()
	return answer, nil
}

var errNoConnection = errors.New("a call over a connection that is not this server's")

// bind adds the instance to ctx that a call of the given method is for.
func (s *Server) bind(ctx context.Context, method string) (context.Context, error) {
	k := kindOf(method)
	if k == "" {
		return ctx, nil
	}
	conn := connectionOf(ctx)
	if conn == nil {
		return ctx, errNoConnection
	}
	if k == sidecars.State {
		store, err := s.stateStore(ctx, conn)
		if err != nil && static[method] {
			store, err = NewStateStore(s.opts.Backend, s.componentOptions(ctx)), nil
		}
		return context.WithValue(ctx, boundStateKey{}, store), err
	}
	p, err := s.pubsub(ctx, conn, consuming[method])
	if err != nil && static[method] {
		p, err = NewPubSub(s.opts.Backend, s.componentOptions(ctx)), nil
	}
	return context.WithValue(ctx, boundPubSubKey{}, p), err
}

// stateStore returns the connection's instance, or makes one of what was remembered.
func (s *Server) stateStore(ctx context.Context, conn *connection) (*StateStore, error) {
	conn.mu.Lock()
	store := conn.state
	conn.mu.Unlock()
	if store != nil {
		return store, nil
	}
	name := componentName(ctx)
	properties, err := agreed(name, conn.session.Find(sidecars.State, name), func(properties map[string]string) (stateConfig, error) {
		return parseStateConfig(properties, s.opts.Defaults)
	})
	if err != nil {
		return nil, err
	}
	store = NewStateStore(s.opts.Backend, s.componentOptions(ctx))
	if err := store.Init(ctx, contribMetadataState(name, properties)); err != nil {
		return nil, err
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.state == nil {
		conn.state = store
		conn.session.Adopt(sidecars.State, name)
	}
	return conn.state, nil
}

// pubsub returns the connection's instance, or makes one of what was remembered. Where that does not tell which consumer
// group the connection stands for, the instance will do for calls that do not consume, and the connection keeps none.
func (s *Server) pubsub(ctx context.Context, conn *connection, consumes bool) (*PubSub, error) {
	conn.mu.Lock()
	p := conn.pubsub
	conn.mu.Unlock()
	if p != nil {
		return p, nil
	}
	name := componentName(ctx)
	found := conn.session.Find(sidecars.PubSub, name)
	parse := func(properties map[string]string) (pubsubConfig, error) {
		return parsePubSubConfig(properties, s.opts.Defaults)
	}
	properties, err := agreed(name, found, parse)
	sure := err == nil
	if !sure && !consumes {
		properties, err = agreed(name, found, func(properties map[string]string) (publisherConfig, error) {
			c, err := parse(properties)
			return c.Publisher, err
		})
	}
	if err != nil {
		return nil, err
	}
	p = NewPubSub(s.opts.Backend, s.componentOptions(ctx))
	if err := p.Init(ctx, contribMetadataPubSub(name, properties)); err != nil {
		return nil, err
	}
	if !sure {
		return p, nil
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.pubsub == nil {
		conn.pubsub = p
		conn.session.Adopt(sidecars.PubSub, name)
	}
	return conn.pubsub, nil
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

func contribMetadataState(name string, properties map[string]string) (m contribstate.Metadata) {
	m.Name, m.Properties = name, properties
	return m
}

func contribMetadataPubSub(name string, properties map[string]string) (m contribpubsub.Metadata) {
	m.Name, m.Properties = name, properties
	return m
}
