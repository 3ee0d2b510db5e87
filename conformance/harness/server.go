package harness

import (
	"context"
	"net"
)

// ServerOptions describe any other program that listens, such as a database.
type ServerOptions struct {
	// Name is the process's name in logs.
	Name string
	// Path is the binary.
	Path string
	Args []string
	Env  []string
	// Network and Address are where it listens, as in net.Dial. They are not passed on: say them in Args. Network's
	// default: tcp.
	Network, Address string
}

// Server is the process of such a program.
type Server struct {
	*Process
	Address string
}

// StartServer starts the program. It is ready, for WaitReady, when it takes connections.
func (h *Harness) StartServer(opts ServerOptions) (*Server, error) {
	if opts.Network == "" {
		opts.Network = "tcp"
	}
	process, err := h.start(kindServer, spec{
		Name: opts.Name,
		Path: opts.Path,
		Args: opts.Args,
		Env:  opts.Env,
		Ready: func(ctx context.Context) error {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, opts.Network, opts.Address)
			if err != nil {
				return err
			}
			return conn.Close()
		},
	})
	return &Server{Process: process, Address: opts.Address}, err
}
