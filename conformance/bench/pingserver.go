package bench

import (
	"context"
	"errors"
	"net"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
)

// PingServerCommand is the subcommand under which the program that calls Run must call ServePings.
const PingServerCommand = "ping-server"

// pingServer answers what a sidecar's adapter asks of a state store before it is used, and pings.
type pingServer struct {
	proto.UnimplementedStateStoreServer
}

func (pingServer) Init(context.Context, *proto.InitRequest) (*proto.InitResponse, error) {
	return &proto.InitResponse{}, nil
}

func (pingServer) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{}, nil
}

func (pingServer) Ping(context.Context, *proto.PingRequest) (*proto.PingResponse, error) {
	return &proto.PingResponse{}, nil
}

// ServePings serves pings, and nothing else, on a Unix socket until ctx ends: what gRPC takes with nothing behind it.
func ServePings(ctx context.Context, socket string) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	proto.RegisterStateStoreServer(server, pingServer{})
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
