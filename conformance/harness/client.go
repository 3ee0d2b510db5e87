package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// Redial is how soon a connection that was lost is tried again. A sidecar takes longer.
	Redial = 10 * time.Millisecond
	// callTimeout is far more than a call takes, and means that the process hangs.
	callTimeout = 5 * time.Minute
	// eventTimeout is how long Recv waits for an event. One that never comes is to fail the test, and not to hang it.
	eventTimeout = 10 * time.Minute
)

// Client speaks the protocol of pluggable components with dapr-bolt, as a sidecar does, over one connection for one
// component. Calls that were begun are seen to their end, also when the context of who made them ends.
type Client struct {
	Conn        *grpc.ClientConn
	State       proto.StateStoreClient
	Transaction proto.TransactionalStateStoreClient
	PubSub      proto.PubSubClient
}

// Dial makes a Client of the socket; it connects at the first call. The options are added to its own. The caller must
// Close it.
func Dial(socket, component string, options ...grpc.DialOption) (*Client, error) {
	named := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "x-component-instance", component)
	}
	conn, err := grpc.NewClient("unix://"+socket, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: Redial, Multiplier: 1, MaxDelay: Redial},
			MinConnectTimeout: callTimeout,
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(named(ctx)), callTimeout)
			defer cancel()
			return invoker(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(named(ctx), desc, cc, method, opts...)
		}))...)
	if err != nil {
		return nil, err
	}
	return &Client{
		Conn:        conn,
		State:       proto.NewStateStoreClient(conn),
		Transaction: proto.NewTransactionalStateStoreClient(conn),
		PubSub:      proto.NewPubSubClient(conn),
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.Conn.Close() }

// InitState initializes the state store with settings given as pairs of key and value.
func (c *Client) InitState(ctx context.Context, settings ...string) error {
	_, err := c.State.Init(ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: Pairs(settings)}})
	return err
}

// InitPubSub initializes the pub/sub with settings given as pairs of key and value.
func (c *Client) InitPubSub(ctx context.Context, settings ...string) error {
	_, err := c.PubSub.Init(ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: Pairs(settings)}})
	return err
}

// Set stores a value.
func (c *Client) Set(ctx context.Context, key string, value []byte) error {
	_, err := c.State.Set(ctx, &proto.SetRequest{Key: key, Value: value})
	return err
}

// Get returns a value; empty: there is none.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	got, err := c.State.Get(ctx, &proto.GetRequest{Key: key})
	return got.GetData(), err
}

// Publish publishes an event under an id.
func (c *Client) Publish(ctx context.Context, topic, id string, data []byte) error {
	_, err := c.PubSub.Publish(ctx, &proto.PublishRequest{Topic: topic, Data: data, Metadata: map[string]string{"eventID": id}})
	return err
}

// pulled is a subscription whose Recv does not wait for ever.
type pulled struct {
	proto.PubSub_PullMessagesClient
	cancel context.CancelFunc
}

func (p pulled) Recv() (*proto.PullMessagesResponse, error) {
	late := time.AfterFunc(eventTimeout, p.cancel)
	m, err := p.PubSub_PullMessagesClient.Recv()
	if !late.Stop() {
		err = fmt.Errorf("no event came within %s: %w", eventTimeout, err)
	}
	if err != nil {
		p.cancel()
	}
	return m, err
}

// Pull opens a subscription, which lasts until ctx ends.
func (c *Client) Pull(ctx context.Context, topic string) (proto.PubSub_PullMessagesClient, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.PubSub.PullMessages(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	// What is wrong with the stream, Recv says.
	if err := stream.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: topic}}); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	return pulled{stream, cancel}, nil
}

// Unanswered reports whether err is what a client sees of a process that dies, or that is not there.
func Unanswered(err error) bool { return status.Code(err) == codes.Unavailable }

// Pairs makes a map of a list of pairs of key and value.
func Pairs(list []string) map[string]string {
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}
