package component

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	_ "github.com/dapr-bolt/dapr-bolt/internal/grpcenv" // before gRPC is initialised
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// DefaultName is the socket's name without its extension, and so the one in the component types state.bolt and
// pubsub.bolt.
const DefaultName = "bolt"

// SocketDirVariable is the environment variable that tells sidecars where to look for sockets
// (pkg/components/pluggable/discovery.go).
const SocketDirVariable = "DAPR_COMPONENTS_SOCKETS_FOLDER"

// DefaultSocketDir returns where sidecars look for sockets.
func DefaultSocketDir() string {
	return cmp.Or(os.Getenv(SocketDirVariable), "/tmp/dapr-components-sockets")
}

// What Options bound by default. A sidecar has one connection for each component, and one stream for each topic that its
// app is subscribed to.
const (
	DefaultMaxConnections  = 4096
	DefaultMaxStreams      = 10000
	DefaultMaxCalls        = 1 << 15
	DefaultMaxRequestBytes = 256 << 20
)

const (
	// maxReceive bounds a request, in bytes. It is well above what can be stored, so that the refusal is ours and says
	// which value it is about; the largest transactions and bulk calls must fit too.
	maxReceive = 16 << 20
	// maxCalls bounds the calls of one connection that are open at once; each subscription is one.
	maxCalls = 1 << 14
	// maxHeaders bounds the headers of a call, in bytes as HTTP/2 counts them (RFC 9113, 6.5.2). It is what gRPC's other
	// implementations allow; a sidecar's are well below 1 KiB, unless its metadata carry more from the app's request.
	maxHeaders = 16 << 10
	// streamWindow is what a client may send on a stream ahead of what is read from it. Left to itself, gRPC raises it
	// to 16 MiB for a fast client; a request that is being read may always be sent to its end. connectionWindow does not
	// bound anything, as gRPC gives it back at once: it is wide enough not to be waited for.
	streamWindow     = 64 << 10
	connectionWindow = 1 << 20
	// callWorkers is how many goroutines are kept for calls. A new one for each call grows its stack several times on the
	// way down, which took more than a small call itself. With many more, they rest so long that their stacks shrink again.
	callWorkers = 64
	// handshakeWithin is how long a client has to begin once it is connected.
	handshakeWithin = 30 * time.Second
	// minPing is how often a client may ping. No sidecar pings by itself; one that does must not be cut off.
	minPing = time.Second
)

// Options for Listen; the zero value of each but Sidecars and Backend is the documented default.
type Options struct {
	// Name of the socket, without its extension. Default: DefaultName.
	Name string
	// SocketDir is the folder of the socket. Default: where sidecars look, $DAPR_COMPONENTS_SOCKETS_FOLDER or else
	// /tmp/dapr-components-sockets.
	SocketDir string
	// SocketGID is a group whose members may connect: the socket gets mode 0660. Default: nobody but the user who runs the
	// process, and root.
	SocketGID *int
	// Allow lets in processes of other users, wherever the file system lets them reach the socket, which gets mode 0666.
	// Everybody else is refused. Default: nobody else.
	Allow access.Policy
	// MaxConnections bounds the connections that are open at once. Default: DefaultMaxConnections.
	MaxConnections int
	// MaxStreams bounds the subscriptions that are open at once, of all connections. Default: DefaultMaxStreams.
	MaxStreams int
	// MaxCalls bounds the calls that are open at once, of all connections; each subscription is one. Default:
	// DefaultMaxCalls.
	MaxCalls int
	// MaxRequestBytes bounds in bytes, apart from each other, what requests take that are arriving, that are being worked
	// on, and answers that are not read yet: see limiter. Default: DefaultMaxRequestBytes.
	MaxRequestBytes int64
	// Sidecars keeps what must be known of sidecars after a restart. Required.
	Sidecars *sidecars.Registry
	// Backend is what the components work on. Required.
	Backend Backend
	// Logger default: slog.Default().
	Logger *slog.Logger
	// Clock is what a publish's deliverAfter goes by, and how often the log repeats itself. Default: the system's.
	Clock clockwork.Clock
	// Metrics are written to by the components. Default: new ones.
	Metrics *metrics.Metrics
	// Tracer makes a span of each call and each delivery. Default: none are made.
	Tracer trace.Tracer

	// peerOf is for tests of sidecars that cannot be told from each other.
	peerOf func(net.Conn) access.Process
}

func (o *Options) setDefaults() {
	o.Name = cmp.Or(o.Name, DefaultName)
	o.SocketDir = cmp.Or(o.SocketDir, DefaultSocketDir())
	o.MaxConnections = cmp.Or(o.MaxConnections, DefaultMaxConnections)
	o.MaxStreams = cmp.Or(o.MaxStreams, DefaultMaxStreams)
	o.MaxCalls = cmp.Or(o.MaxCalls, DefaultMaxCalls)
	o.MaxRequestBytes = cmp.Or(o.MaxRequestBytes, DefaultMaxRequestBytes)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	if o.peerOf == nil {
		o.peerOf = func(c net.Conn) access.Process {
			peer, _ := access.PeerOf(c) // whom the system does not name cannot be told
			return peer.Process
		}
	}
}

// Backend hands out what the components work on. The same place gets the same store or broker, whoever asks; the Backend
// owns them. An error that matches statestore.ErrInvalidArgument refuses a name for good.
type Backend interface {
	StateStoreAt(ctx context.Context, place servers.Place) (*statestore.Store, error)
	BrokerAt(ctx context.Context, place servers.Place) (pubsub.Service, error)
}

// Server serves components on a socket.
type Server struct {
	opts    Options
	socket  *socket
	grpc    *grpc.Server
	limiter *limiter
	turns   *turns
	answers *answers
	// connections counts those that are open.
	connections atomic.Int64

	serving atomic.Bool

	mu       sync.Mutex
	stopping bool
	// pulls are the streams that are open, with their subscriptions; nil: the first message has not come.
	pulls map[*pull]pubsub.Subscription
	// goroutines counts those that may outlive the call that started them.
	goroutines  sync.WaitGroup
	stopLimiter context.CancelFunc
	stopOnce    sync.Once
	stopErr     error
}

// Listen takes the socket, so that sidecars that start from now on wait for Serve. The caller must Stop the Server.
//
// Errors: that another process listens there, which is named, and the system's.
func Listen(ctx context.Context, opts Options) (*Server, error) {
	opts.setDefaults()
	if opts.Name != filepath.Base(opts.Name) {
		return nil, invalid.New("name", opts.Name, "a file name without its extension")
	}
	sock, err := listenAt(ctx, filepath.Join(opts.SocketDir, opts.Name+".sock"), socketAccess{
		gid:     opts.SocketGID,
		Options: access.Options{Policy: opts.Allow, MaxConnections: opts.MaxConnections, Logger: opts.Logger, Clock: opts.Clock},
	})
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:    opts,
		socket:  sock,
		pulls:   make(map[*pull]pubsub.Subscription),
		limiter: newLimiter(opts.MaxRequestBytes, opts.MaxCalls, opts.Logger, opts.Clock),
		turns:   newTurns(opts.MaxRequestBytes),
		answers: newAnswers(opts.MaxRequestBytes, opts.Logger, opts.Clock),
	}
	var limiting context.Context
	limiting, s.stopLimiter = context.WithCancel(context.Background())
	s.goroutines.Go(func() { s.limiter.run(limiting) })
	s.grpc = s.newGRPC()
	return s, nil
}

func (s *Server) newGRPC() *grpc.Server {
	server := grpc.NewServer(
		grpc.Creds(peerCredentials{insecure.NewCredentials(), s}),
		grpc.InTapHandle(s.limiter.tap),
		grpc.ForceServerCodecV2(newCodec()),
		// The buffer is connection's.
		grpc.ReadBufferSize(0),
		grpc.ConnectionTimeout(handshakeWithin),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(callWorkers),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	state := stateService{s}
	proto.RegisterStateStoreServer(server, state)
	proto.RegisterTransactionalStateStoreServer(server, state)
	proto.RegisterQueriableStateStoreServer(server, state)
	proto.RegisterTransactionalStoreMultiMaxSizeServer(server, state)
	proto.RegisterPubSubServer(server, pubsubService{s})
	// The runtime finds out what a socket serves by reflection: v1alpha; tools use v1.
	reflection.Register(server)
	return server
}

// unary is the way of a unary call: it is logged, its panic and its error are made a status, it waits for its turn, and it is
// found out which store or pub/sub it is for. An interceptor for each of these took an allocation each.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, start := callOf(ctx), time.Now()
	answer, err := s.workOn(ctx, c, info.Server, req, handler)
	if err != nil {
		answer, err = nil, toStatus(err)
	}
	measureCall(c, start, err)
	s.traceCall(ctx, c, req, start, err)
	logCall(ctx, s.opts.Logger, c, start, err)
	return answer, err
}

func (s *Server) workOn(ctx context.Context, c *call, service, req any, handler grpc.UnaryHandler) (answer any, err error) {
	defer answerPanic(ctx, s.opts.Logger, c, &err)
	defer s.limiter.end(c)
	answer, err = s.takeTurn(ctx, c, service, req, handler)
	if err != nil {
		return nil, err
	}
	return s.answers.reserve(c.conn, answer)
}

func (s *Server) takeTurn(ctx context.Context, c *call, service, req any, handler grpc.UnaryHandler) (any, error) {
	size := s.limiter.size(c)
	turn, err := s.turns.wait(ctx, c.method, size)
	if err != nil {
		return nil, err
	}
	defer turn.end()
	if err := s.limiter.begin(c, size); err != nil {
		return nil, err
	}
	if err := s.bind(ctx, c, service); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// stream is the way of a stream, which is no different but for its messages: those are counted as they arrive.
func (s *Server) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	c, start := callOf(ctx), time.Now()
	err := s.workOnStream(ctx, c, srv, stream, handler)
	if errors.Is(err, ErrStopping) { // which is logged once, for the process: no stream has failed
		return toStatus(err)
	}
	err = toStatus(err)
	logCall(ctx, s.opts.Logger, c, start, err)
	return err
}

func (s *Server) workOnStream(ctx context.Context, c *call, srv any, stream grpc.ServerStream, handler grpc.StreamHandler) (err error) {
	defer answerPanic(ctx, s.opts.Logger, c, &err)
	defer s.limiter.end(c)
	metered, err := s.limiter.metered(c, stream)
	if err != nil {
		return err
	}
	if err := s.bind(ctx, c, srv); err != nil {
		return err
	}
	return handler(srv, metered)
}

// logOf returns the log of the component that a call is for.
func (s *Server) logOf(c *call) *slog.Logger { return s.opts.Logger.With("component", c.component) }

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Limits says what is used of the limits in Options, by their flags.
func (s *Server) Limits() []metrics.Limit {
	s.mu.Lock()
	streams := len(s.pulls)
	s.mu.Unlock()
	calls, arriving := s.limiter.used()
	return []metrics.Limit{
		{Flag: "max-connections", Used: float64(s.connections.Load()), Max: float64(s.opts.MaxConnections)},
		{Flag: "max-streams", Used: float64(streams), Max: float64(s.opts.MaxStreams)},
		{Flag: "max-calls", Used: float64(calls), Max: float64(s.opts.MaxCalls)},
		{Flag: "max-request-bytes", Used: float64(max(arriving, s.turns.used(), s.answers.used())), Max: float64(s.opts.MaxRequestBytes)},
	}
}

// SocketPath is where the server listens.
func (s *Server) SocketPath() string { return s.socket.path }

// Serve answers calls until Stop, and then returns nil.
func (s *Server) Serve() error {
	s.serving.Store(true)
	err := s.grpc.Serve(s.socket)
	s.serving.Store(false)
	if s.isStopping() {
		return nil
	}
	return errors.Join(fmt.Errorf("serve components: %w", err), s.socket.remove())
}

// Ready returns an error unless sidecars can reach the server.
func (s *Server) Ready() error {
	switch {
	case s.isStopping():
		return ErrStopping
	case !s.serving.Load():
		return errors.New("the component is not serving yet")
	case !s.socket.ours():
		return fmt.Errorf("socket %s is gone or belongs to another process", s.socket.path)
	}
	return nil
}

// Stop stops new deliveries, takes the socket away, waits until what is in the apps' hands is acknowledged and running
// calls have ended, or until ctx has, and then ends what is left: events that were not acknowledged are put back,
// uncounted. Nothing of the server runs when it returns. Later calls wait likewise.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.stop(ctx) })
	return s.stopErr
}

func (s *Server) stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	pulls := maps.Clone(s.pulls)
	s.mu.Unlock()

	for _, sub := range pulls {
		if sub != nil {
			sub.Pause()
		}
	}
	removed := s.socket.remove()
	for p, sub := range pulls {
		if sub != nil {
			p.drain(ctx, sub)
		}
	}
	for p := range pulls {
		p.stop()
	}
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		s.grpc.Stop()
		<-graceful
	}
	s.stopLimiter()
	s.goroutines.Wait()
	s.limiter.following.Wait()
	// gRPC closes the listener only if Serve has seen it.
	_ = s.socket.Close()
	return removed
}
