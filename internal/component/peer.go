package component

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// connection is one sidecar's connection for one component, and holds the instances that it initialized. They live and
// die with it.
//
// Fault that this answers: the SDK's own server tells instances apart by the header x-component-instance alone, which
// carries the component's name, so that two sidecars with a component of the same name would share one instance.
type connection struct {
	session *sidecars.Session
	frames  *frameConn

	mu     sync.Mutex
	state  *StateStore
	pubsub *PubSub
}

// AuthType implements credentials.AuthInfo.
func (*connection) AuthType() string { return "unix" }

// connectionOf returns the connection that a call came over.
func connectionOf(ctx context.Context) *connection {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*connection); ok {
			return c
		}
	}
	return nil
}

// peerCredentials are transport credentials that encrypt nothing: who may connect, the socket has said.
// They give each connection its *connection, and show its frames to arrivals.
type peerCredentials struct{ server *Server }

func (p peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer := p.server.opts.peerOf(conn)
	session := p.server.opts.Sidecars.Connect(peer)
	frames := newFrameConn(conn, p.server.arrivals, peer)
	frames.onClose = sync.OnceFunc(func() {
		if !p.server.isStopping() {
			session.Close()
		}
	})
	return frames, &connection{session: session, frames: frames}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }
