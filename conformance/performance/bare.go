package performance

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	_ "github.com/dapr-bolt/dapr-bolt/internal/grpcenv" // the bare server must not stand still either
)

// BareServerCommand is the subcommand under which the program that calls Run must call ServeBare.
const BareServerCommand = "bare-server"

// bareSocket is the name of its socket, which makes it state.bare to a sidecar.
const bareSocket = "bare.sock"

// openBare runs the bare server in a process of its own.
func openBare(ctx context.Context, p *peer) error { return openBareAt(ctx, p, p.Dir("bare")) }

// openBareAt has the place as ServeBare takes it.
func openBareAt(ctx context.Context, p *peer, place string) error {
	if err := startBare(ctx, p, place); err != nil {
		return err
	}
	err := p.useSocket(ctx, bareSocket, nil, nil)
	p.get, p.subscribe = nil, nil // its log cannot be read
	return err
}

// startBare starts the bare server in the folder of sockets.
func startBare(ctx context.Context, p *peer, place string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.SocketDir(), 0o700); err != nil {
		return err
	}
	socket := filepath.Join(p.SocketDir(), bareSocket)
	server, err := p.StartServer(harness.ServerOptions{
		Name: BareServerCommand, Path: self, Args: []string{BareServerCommand, socket, place}, Network: "unix", Address: socket,
	})
	if err != nil {
		return err
	}
	p.process = server
	return server.WaitReady(ctx)
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
// no limits: what it takes is what gRPC takes and a write to the disk. Place is the log's file, or the URLs of etcd servers with
// commas between them: then what waits is put in one transaction, and the next one begins when that is answered.
func ServeBare(ctx context.Context, socket, place string) error {
	debug.SetGCPercent(bareGCPercent)
	open := newBareLog
	if strings.Contains(place, "://") {
		open = newBareEtcd
	}
	disk, err := open(place)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return errors.Join(err, disk.Close())
	}
	w := &bareWriter{disk: disk, entries: make(chan bareEntry, bareQueue)}
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
	return errors.Join(err, disk.Close())
}

// bareDisk keeps all entries of a batch, or returns an error.
type bareDisk interface {
	keep(batch []bareEntry) error
	Close() error
}

type bareEntry struct {
	key   string
	value []byte
	kept  chan error
}

// bareWriter writes whatever waits in one go.
type bareWriter struct {
	disk    bareDisk
	entries chan bareEntry
}

// keep returns once the value is on disk.
func (w *bareWriter) keep(key string, value []byte) error {
	kept := make(chan error, 1)
	w.entries <- bareEntry{key, value, kept}
	return <-kept
}

func (w *bareWriter) run() {
	var batch []bareEntry
	for e := range w.entries {
		batch = append(batch[:0], e)
		for len(w.entries) > 0 { // nobody else takes any
			batch = append(batch, <-w.entries)
		}
		err := w.disk.keep(batch)
		for _, e := range batch {
			e.kept <- err
		}
	}
}

// bareLog is a file that is written over from its beginning when it is full.
type bareLog struct {
	*os.File
	at  int64
	raw []byte
}

func newBareLog(path string) (bareDisk, error) {
	file, err := newDiskFile(path)
	return &bareLog{File: file}, err
}

func (l *bareLog) keep(batch []bareEntry) error {
	l.raw = l.raw[:0]
	for _, e := range batch {
		l.raw = append(l.raw, e.value...)
	}
	if l.at+int64(len(l.raw)) > diskFile {
		l.at = 0
	}
	n, err := l.WriteAt(l.raw, l.at)
	l.at += int64(n)
	return errors.Join(err, dataSync(l.File))
}

// bareEtcd puts a batch in one transaction, which can have each key once.
type bareEtcd struct{ *clientv3.Client }

func newBareEtcd(endpoints string) (bareDisk, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(endpoints, ","), DialTimeout: startTimeout})
	return bareEtcd{client}, err
}

func (e bareEtcd) keep(batch []bareEntry) error {
	newest := make(map[string]string, len(batch))
	for _, entry := range batch {
		newest["bare/"+entry.key] = string(entry.value)
	}
	puts := make([]clientv3.Op, 0, len(newest))
	for key, value := range newest {
		puts = append(puts, clientv3.OpPut(key, value))
	}
	_, err := e.Txn(e.Ctx()).Then(puts...).Commit()
	return err
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
	return &proto.SetResponse{}, s.writer.keep(r.GetKey(), r.GetValue())
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
	return &proto.PublishResponse{}, p.writer.keep(r.GetTopic(), r.GetData())
}
