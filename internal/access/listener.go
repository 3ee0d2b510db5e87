// Package access decides who may connect to a Unix socket, by what the system says of the process at the other end.
package access

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

// Policy says whose processes may connect beside those of the user who runs this one, and root's.
type Policy struct {
	// UIDs are users, GIDs groups that are a process's own or among its supplementary ones.
	UIDs, GIDs []uint32
}

// open reports whether the policy lets in anybody whom the permissions of a private socket would keep out.
func (p Policy) open() bool { return len(p.UIDs) > 0 || len(p.GIDs) > 0 }

// Check returns an error where this system cannot tell who connects, and the policy needs to know.
func (p Policy) Check() error {
	if p.open() && !supported {
		return errors.New("this system does not say who connects to a socket: other users cannot be allowed")
	}
	return nil
}

func (p Policy) admits(c Peer) bool {
	return c.UID == 0 || int(c.UID) == os.Geteuid() || slices.Contains(p.UIDs, c.UID) || slices.Contains(p.GIDs, c.GID) ||
		slices.ContainsFunc(c.Groups, func(g uint32) bool { return slices.Contains(p.GIDs, g) })
}

// Options for NewListener; the zero value of each is the documented default.
type Options struct {
	// Policy default: this process's own user, and root.
	Policy Policy
	// MaxConnections bounds those that are open at once. Default: no bound.
	MaxConnections int
	// Name is what the listener is called in the log. Default: its address.
	Name string
	// Logger hears of those who are turned away. Default: slog.Default().
	Logger *slog.Logger
	// Clock is what the throttled log goes by. Default: the system's.
	Clock clockwork.Clock
}

// NewListener returns a listener that closes the connections which opts do not allow, and returns the others.
func NewListener(l net.Listener, opts Options) net.Listener {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Name == "" {
		opts.Name = l.Addr().String()
	}
	if opts.Clock == nil {
		opts.Clock = clockwork.NewRealClock()
	}
	return &listener{Listener: l, opts: opts, told: make(map[string]*throttled.Log)}
}

// logEvery is how often the log tells of one kind of refusal: who is turned away may try again at once.
const logEvery = 10 * time.Second

type listener struct {
	net.Listener
	opts Options

	mu   sync.Mutex
	open int
	// told are the lines of the log, by the reason.
	told map[string]*throttled.Log
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c)
		reason := l.refuses(peer, err)
		if reason == "" {
			return &connection{Conn: c, peer: peer, peerErr: err, leave: sync.OnceFunc(l.leave)}, nil
		}
		l.tell(reason, peer, err)
		_ = c.Close()
	}
}

// refuses returns why a connection is turned away, or counts it.
func (l *listener) refuses(from Peer, err error) (reason string) {
	switch {
	case err != nil && l.opts.Policy.open():
		return "who it is cannot be told"
	case err == nil && !l.opts.Policy.admits(from):
		return "its user is not allowed"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.MaxConnections > 0 && l.open >= l.opts.MaxConnections {
		return fmt.Sprintf("%d connections are open, and no more are allowed", l.open)
	}
	l.open++
	return ""
}

func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

func (l *listener) tell(reason string, peer Peer, err error) {
	l.mu.Lock()
	line := l.told[reason]
	if line == nil {
		line = &throttled.Log{}
		l.told[reason] = line
	}
	suppressed, ok := line.Allow(l.opts.Clock.Now(), logEvery)
	l.mu.Unlock()
	if ok {
		from := peer.String()
		if err != nil {
			from = err.Error()
		}
		l.opts.Logger.Warn("refused a connection: "+reason, "socket", l.opts.Name, "from", from, "refusedBefore", suppressed)
	}
}

// connection is one that was let in.
type connection struct {
	net.Conn
	peer    Peer
	peerErr error
	leave   func()
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.leave()
	return c.Conn.Close()
}
