package component

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// process identifies a process as long as the machine is up; the zero value is one that is not known.
type process struct {
	PID int `json:"pid,omitempty"`
	// Start is when it started, in the system's units: the number alone may be given to another process later.
	Start uint64 `json:"start,omitempty"`
}

func (p process) known() bool { return p.PID != 0 }

func (p process) alive() bool { return p.known() && processStart(p.PID) == p.Start }

func (p process) String() string {
	switch name := processName(p.PID); {
	case !p.known():
		return "a process that cannot be named"
	case name == "":
		return fmt.Sprintf("process %d", p.PID)
	default:
		return fmt.Sprintf("process %d (%s)", p.PID, name)
	}
}

// connection is one sidecar's connection for one component, and holds the instances that it initialized. They live and
// die with it.
//
// Fault that this answers: the SDK's own server tells instances apart by the header x-component-instance alone, which
// carries the component's name, so that two sidecars with a component of the same name would share one instance.
type connection struct {
	peer   process
	frames *frameConn

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
type peerCredentials struct{ arrivals *arrivals }

func (p peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	frames := newFrameConn(conn, p.arrivals)
	return frames, &connection{peer: frames.peer, frames: frames}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }
