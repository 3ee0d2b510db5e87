package component

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// connection is one sidecar's connection for one component, and holds what the sidecar initialized on it: the header that
// names a component is the same for two sidecars.
//
// It tells the limiter how much of each request has arrived: gRPC tells nobody of a request before all of it is there,
// and lets each grow to maxReceive. For that it looks at the headers of the frames that gRPC reads (RFC 9113, 4.1). gRPC
// reads without a buffer of its own (grpc.ReadBufferSize(0)), so that it is at the same frame.
type connection struct {
	net.Conn
	limiter *limiter
	peer    access.Process
	session *sidecars.Session
	onClose func()
	// state and pubsub are nil until they are initialized.
	state  atomic.Pointer[stateStore]
	pubsub atomic.Pointer[pubSub]

	// What follows belongs to the goroutine that reads.

	buffered *bufio.Reader
	// header is the frame header that is being read, of which there are have bytes; payload is what is left of the last frame.
	header  [9]byte
	have    int
	payload int
	// stream is the last that the client began, ended: it sends nothing more there. calls are those that it still sends to.
	stream uint32
	ended  bool
	calls  map[uint32]*call
	// tidyAt is the size of calls at which those are dropped that are over.
	tidyAt int
}

// readBuffer is what is asked of the system at once, as gRPC does by itself.
const readBuffer = 32 << 10

func (s *Server) newConnection(conn net.Conn) *connection {
	peer := s.opts.peerOf(conn)
	c := &connection{
		Conn: conn, limiter: s.limiter, peer: peer, session: s.opts.Sidecars.Connect(peer),
		buffered: bufio.NewReaderSize(conn, readBuffer),
		payload:  len(http2.ClientPreface),
		calls:    make(map[uint32]*call),
	}
	s.connections.Add(1)
	c.onClose = sync.OnceFunc(func() {
		s.connections.Add(-1)
		s.limiter.closed(c)
		s.answers.closed(c)
		if !s.isStopping() {
			c.session.Close()
		}
	})
	return c
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.buffered.Read(p)
	for b := p[:n]; len(b) > 0; {
		skip := min(c.payload, len(b))
		c.payload -= skip
		b = b[skip:]
		copied := copy(c.header[c.have:], b)
		b = b[copied:]
		if c.have += copied; c.have == len(c.header) {
			c.have = 0
			c.frame()
		}
	}
	return n, err
}

// frame is called when gRPC has the header of a frame, before it has the payload.
func (c *connection) frame() {
	h := &c.header
	c.payload = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	kind, flags, stream := http2.FrameType(h[3]), http2.Flags(h[4]), binary.BigEndian.Uint32(h[5:])&^(1<<31)
	switch kind {
	case http2.FrameHeaders:
		c.stream, c.ended = stream, flags.Has(http2.FlagHeadersEndStream)
	case http2.FrameData:
		if call := c.calls[stream]; call != nil {
			c.limiter.arrived(call, int64(c.payload))
		}
		if flags.Has(http2.FlagDataEndStream) {
			delete(c.calls, stream)
		}
	case http2.FrameRSTStream:
		delete(c.calls, stream)
	}
}

// begin is called when gRPC has the headers of a call.
func (c *connection) begin(call *call) {
	if c.ended {
		return
	}
	if len(c.calls) >= c.tidyAt {
		for stream, call := range c.calls {
			if call.over {
				delete(c.calls, stream)
			}
		}
		c.tidyAt = 2*len(c.calls) + 64
	}
	c.calls[c.stream] = call
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.onClose()
	return c.Conn.Close()
}

// AuthType implements credentials.AuthInfo.
func (*connection) AuthType() string { return "unix" }

// connectionOf returns the connection that a call came over.
func connectionOf(ctx context.Context) *connection {
	p, _ := peer.FromContext(ctx)
	return p.AuthInfo.(*connection)
}

// peerCredentials are transport credentials that encrypt nothing: who may connect, the socket has said. They make each
// connection a *connection.
type peerCredentials struct {
	credentials.TransportCredentials // insecure
	server                           *Server
}

// ServerHandshake implements credentials.TransportCredentials.
func (p peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c := p.server.newConnection(conn)
	return c, c, nil
}
