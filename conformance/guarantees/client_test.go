package guarantees

import (
	"context"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// client speaks the pluggable-component protocol with dapr-bolt, as a sidecar does. Unlike a sidecar's, its connection is
// tried again at once when it was lost.
type client struct {
	state       proto.StateStoreClient
	transaction proto.TransactionalStateStoreClient
	pubsub      proto.PubSubClient
}

// client connects for one component. It lasts as long as the test.
func (w *world) client(component string) *client {
	w.t.Helper()
	named := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "x-component-instance", component)
	}
	conn, err := grpc.NewClient("unix://"+w.socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: poll, Multiplier: 1, MaxDelay: poll},
			MinConnectTimeout: patience,
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(named(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(named(ctx), desc, cc, method, opts...)
		}))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, conn.Close()) })
	return &client{
		state:       proto.NewStateStoreClient(conn),
		transaction: proto.NewTransactionalStateStoreClient(conn),
		pubsub:      proto.NewPubSubClient(conn),
	}
}

func (c *client) initState(ctx context.Context, settings ...string) error {
	_, err := c.state.Init(ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: pairs(settings)}})
	return err
}

func (c *client) initPubSub(ctx context.Context, settings ...string) error {
	_, err := c.pubsub.Init(ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: pairs(settings)}})
	return err
}

func pairs(list []string) map[string]string {
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
