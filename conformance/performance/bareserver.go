package performance

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	_ "github.com/dapr-bolt/dapr-bolt/internal/grpcenv" // the bare server must not stand still either
)

// BareServerCommand is the subcommand under which the program that calls Run must call ServeBare.
const BareServerCommand = "bare-server"

const (
	// bareGCPercent and bareWorkers are what dapr-bolt does for its speed besides: a collector that runs rarely, and
	// goroutines that are kept.
	bareGCPercent = 1000
	bareWorkers   = 32
	// bareQueue bounds the events of a topic that are on their way to its subscriber, and those that it has in hand.
	bareQueue = 1 << 10
)

// ServeBare serves the least that a component can be, on a Unix socket until ctx ends, and keeps what it must in file as
// keeper says. There are no ETags, no ends of life, no duplicates, no retries and no limits. Whatever a component does
// beside it makes it slower: what it takes is what gRPC takes and that way of writing to a disk.
func ServeBare(ctx context.Context, socket string, keeper BareKeeper, file string) (err error) {
	debug.SetGCPercent(bareGCPercent)
	k, err := openBareKeeper(keeper, file)
	if err != nil {
		return err
	}
	w := newBareWriter(k)
	defer func() { err = errors.Join(err, w.Close()) }()
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.NumStreamWorkers(bareWorkers), grpc.WaitForHandlers(true))
	proto.RegisterStateStoreServer(server, &bareState{writer: w})
	proto.RegisterPubSubServer(server, &barePubSub{writer: w, topics: make(map[string]chan *proto.PullMessagesResponse)})
	reflection.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		server.Stop()
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}
}

type bareState struct {
	proto.UnimplementedStateStoreServer
	writer *bareWriter
}

func (*bareState) Init(context.Context, *proto.InitRequest) (*proto.InitResponse, error) {
	return &proto.InitResponse{}, nil
}

func (*bareState) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{}, nil
}

func (*bareState) Ping(context.Context, *proto.PingRequest) (*proto.PingResponse, error) {
	return &proto.PingResponse{}, nil
}

func (s *bareState) Set(_ context.Context, r *proto.SetRequest) (*proto.SetResponse, error) {
	if err := s.writer.write(bareEntry{key: []byte(r.GetKey()), value: r.GetValue()}); err != nil {
		return nil, err
	}
	return &proto.SetResponse{}, nil
}

// Get finds what is on disk, where the keeper can find anything.
func (s *bareState) Get(_ context.Context, r *proto.GetRequest) (*proto.GetResponse, error) {
	finder, ok := s.writer.keeper.(bareFinder)
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "a %T cannot be read", s.writer.keeper)
	}
	value, err := finder.find([]byte(r.GetKey()))
	if err != nil {
		return nil, err
	}
	return &proto.GetResponse{Data: value}, nil
}

type barePubSub struct {
	proto.UnimplementedPubSubServer
	writer *bareWriter
	last   atomic.Uint64 // the newest event's number

	mu sync.Mutex
	// topics have one subscriber each. Events without a subscriber are only kept.
	topics map[string]chan *proto.PullMessagesResponse
}

func (*barePubSub) Init(context.Context, *proto.PubSubInitRequest) (*proto.PubSubInitResponse, error) {
	return &proto.PubSubInitResponse{}, nil
}

func (*barePubSub) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{}, nil
}

func (p *barePubSub) Publish(ctx context.Context, r *proto.PublishRequest) (*proto.PublishResponse, error) {
	n := p.last.Add(1)
	if err := p.writer.write(bareEntry{key: bareEventKey(n), value: r.GetData()}); err != nil {
		return nil, err
	}
	p.mu.Lock()
	topic := p.topics[r.GetTopic()]
	p.mu.Unlock()
	if topic != nil {
		select {
		case topic <- &proto.PullMessagesResponse{Data: r.GetData(), TopicName: r.GetTopic(), Id: strconv.FormatUint(n, 10)}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &proto.PublishResponse{}, nil
}

func (p *barePubSub) PullMessages(stream proto.PubSub_PullMessagesServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	name, topic := first.GetTopic().GetName(), make(chan *proto.PullMessagesResponse, bareQueue)
	p.mu.Lock()
	p.topics[name] = topic
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.topics, name)
	}()
	inHand := make(chan struct{}, bareQueue)
	ctx, cancel := context.WithCancel(stream.Context())
	var sending sync.WaitGroup
	sending.Go(func() { sendEvents(ctx, stream, topic, inHand) })
	defer sending.Wait()
	defer cancel()
	return p.takeAcks(stream, inHand)
}

// sendEvents returns when ctx ends or the stream is broken, which its reader hears of as well.
func sendEvents(ctx context.Context, stream proto.PubSub_PullMessagesServer, topic <-chan *proto.PullMessagesResponse, inHand chan<- struct{}) {
	for {
		select {
		case m := <-topic:
			select {
			case inHand <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if stream.Send(m) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (p *barePubSub) takeAcks(stream proto.PubSub_PullMessagesServer, inHand <-chan struct{}) error {
	for {
		ack, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(ack.GetAckMessageId(), 10, 64)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "ack of %q: %v", ack.GetAckMessageId(), err)
		}
		<-inHand
		p.writer.writeLazily(bareEntry{key: bareEventKey(n), remove: true})
	}
}
