package performance

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	_ "github.com/dapr-bolt/dapr-bolt/internal/grpcenv" // the bare server must not stand still either
)

// BareServerCommand is the subcommand under which the program that calls Run must call ServeBare.
const BareServerCommand = "bare-server"

// openBare runs the bare server in a process of its own.
func openBare(ctx context.Context, e *env, p *peer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket := filepath.Join(filepath.Dir(e.SocketDir()), "bare.sock")
	process, err := e.StartServer(harness.ServerOptions{
		Name: BareServerCommand, Path: self, Args: []string{BareServerCommand, socket, e.Dir("bare")}, Network: "unix", Address: socket,
	})
	if err != nil {
		return err
	}
	p.process = process.Process
	if err := process.WaitReady(ctx); err != nil {
		return err
	}
	err = p.useSocket(ctx, e, socket, map[string]string{}, map[string]string{})
	p.get, p.subscribe = nil, nil // its log cannot be read
	return err
}

const (
	// bareGCPercent and bareWorkers are what dapr-bolt does for its speed besides: a collector that runs rarely, and
	// goroutines that are kept.
	bareGCPercent = 1000
	bareWorkers   = 32
	// bareQueue bounds what waits to be written.
	bareQueue = 1 << 10
)

// ServeBare serves the least that a component can be, on a Unix socket until ctx ends: what waits is appended to a log in one
// write, and synced once. Nothing can be found there again. There are no ETags, no ends of life, no duplicates, no retries and
// no limits: what it takes is what gRPC takes and a write to the disk.
func ServeBare(ctx context.Context, socket, log string) error {
	debug.SetGCPercent(bareGCPercent)
	file, err := newDiskFile(log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	w := &bareWriter{file: file, entries: make(chan bareEntry, bareQueue)}
	var writing sync.WaitGroup
	writing.Go(w.run)
	server := grpc.NewServer(grpc.NumStreamWorkers(bareWorkers), grpc.WaitForHandlers(true))
	proto.RegisterStateStoreServer(server, &bareState{writer: w})
	proto.RegisterPubSubServer(server, &barePubSub{writer: w})
	reflection.Register(server)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err = server.Serve(listener)
	if errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	close(w.entries)
	writing.Wait()
	return errors.Join(err, file.Close())
}

type bareEntry struct {
	value []byte
	kept  chan error
}

// bareWriter writes whatever waits in one go.
type bareWriter struct {
	file    *os.File
	entries chan bareEntry
	at      int64
}

// keep returns once the value is on disk.
func (w *bareWriter) keep(value []byte) error {
	kept := make(chan error, 1)
	w.entries <- bareEntry{value, kept}
	return <-kept
}

func (w *bareWriter) run() {
	var batch []byte
	var waiting []chan error
	for e := range w.entries {
		batch, waiting = append(batch[:0], e.value...), append(waiting[:0], e.kept)
		for more := true; more; {
			select {
			case e, more = <-w.entries:
				if more {
					batch, waiting = append(batch, e.value...), append(waiting, e.kept)
				}
			default:
				more = false
			}
		}
		if w.at+int64(len(batch)) > diskFile {
			w.at = 0
		}
		n, err := w.file.WriteAt(batch, w.at)
		w.at += int64(n)
		err = errors.Join(err, dataSync(w.file))
		for _, kept := range waiting {
			kept <- err
		}
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
	return &proto.SetResponse{}, s.writer.keep(r.GetValue())
}

type barePubSub struct {
	proto.UnimplementedPubSubServer
	writer *bareWriter
}

func (*barePubSub) Init(context.Context, *proto.PubSubInitRequest) (*proto.PubSubInitResponse, error) {
	return &proto.PubSubInitResponse{}, nil
}

func (*barePubSub) Features(context.Context, *proto.FeaturesRequest) (*proto.FeaturesResponse, error) {
	return &proto.FeaturesResponse{}, nil
}

func (p *barePubSub) Publish(_ context.Context, r *proto.PublishRequest) (*proto.PublishResponse, error) {
	return &proto.PublishResponse{}, p.writer.keep(r.GetData())
}
