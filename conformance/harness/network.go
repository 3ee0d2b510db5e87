package harness

import (
	"context"
	"errors"
	"fmt"
)

// Network is a bridge of this machine with namespaces behind it, each for one server at an address of its own: a server
// that is cut off there neither gets packets nor gets any out, and nobody is told. It takes root, Linux and iproute2.
type Network struct {
	// name begins those of the bridge, the links and the namespaces; prefix, the addresses.
	name, prefix string
	nodes        int
}

// Network makes a network that ends with the harness. The error says why this machine has none.
func (h *Harness) Network(ctx context.Context) (*Network, error) {
	number, err := h.FreePort() // unique on this machine, like all that is made of it
	if err != nil {
		return nil, err
	}
	n := &Network{name: fmt.Sprint("bolt", number), prefix: fmt.Sprintf("10.%d.%d.", number/256, number%256)}
	err = errors.Join(
		ip(ctx, "link", "add", n.name, "type", "bridge"),
		ip(ctx, "address", "add", n.prefix+"254/24", "dev", n.name),
		ip(ctx, "link", "set", n.name, "up"),
	)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks = append(h.networks, n)
	return n, nil
}

// node makes another namespace.
func (n *Network) node(ctx context.Context) (*node, error) {
	n.nodes++
	made := &node{name: fmt.Sprintf("%s-%d", n.name, n.nodes), host: fmt.Sprint(n.prefix, n.nodes), bridge: n.name}
	return made, errors.Join(
		ip(ctx, "netns", "add", made.name),
		ip(ctx, "link", "add", made.name, "type", "veth", "peer", "name", "eth0", "netns", made.name),
		ip(ctx, "link", "set", made.name, "master", n.name, "up"),
		ip(ctx, "-n", made.name, "address", "add", made.host+"/24", "dev", "eth0"),
		ip(ctx, "-n", made.name, "link", "set", "eth0", "up"),
		ip(ctx, "-n", made.name, "link", "set", "lo", "up"),
	)
}

// close removes what was made of it. The servers must have ended.
func (n *Network) close() error {
	ctx := context.Background()
	var errs []error
	for i := range n.nodes {
		errs = append(errs, ip(ctx, "netns", "delete", fmt.Sprintf("%s-%d", n.name, i+1)))
	}
	return errors.Join(append(errs, ip(ctx, "link", "delete", n.name))...)
}

// node is where a server runs: in a namespace of a Network, or, without a name, on 127.0.0.1.
type node struct{ name, host, bridge string }

// node returns one more place for a server.
func (o *ClusterOptions) node(ctx context.Context) (*node, error) {
	if o.Network == nil {
		return &node{host: "127.0.0.1"}, nil
	}
	return o.Network.node(ctx)
}

// place has a program run there.
func (n *node) place(s spec) spec {
	if n.name != "" {
		s.Path, s.Args = "ip", append([]string{"netns", "exec", n.name, s.Path}, s.Args...)
	}
	return s
}

// CutOff drops all packets from and to the server, which must be on a Network: its link leaves the bridge.
func (n *node) CutOff(ctx context.Context) error { return ip(ctx, "link", "set", n.name, "nomaster") }

// Reconnect ends CutOff.
func (n *node) Reconnect(ctx context.Context) error {
	return ip(ctx, "link", "set", n.name, "master", n.bridge)
}

func ip(ctx context.Context, args ...string) error {
	_, err := output(ctx, "", "ip", args...)
	return err
}
