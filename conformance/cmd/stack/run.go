package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/cluster"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func newRunCommand(use, short string, onCluster bool) *cobra.Command {
	var showSidecars bool
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			dir := checkout.Path(".run")
			if onCluster {
				dir = "" // its servers' data would be that of the last time, at other addresses
			}
			return run(cmd.Context(), cmd.OutOrStdout(), dir, harness.TodoOptions{
				// Fixed, so that what README and browser history say stays true.
				API:           harness.ServicePorts{App: 8000, Bolt: 9180, SidecarHTTP: 3500, SidecarGRPC: 50001},
				Scheduler:     harness.ServicePorts{App: 8001, Bolt: 9181, SidecarHTTP: 3501, SidecarGRPC: 50002},
				Cluster:       onCluster,
				QuietSidecars: !showSidecars,
			})
		},
	}
	cmd.Flags().BoolVar(&showSidecars, "show-sidecars", false, "show what the Dapr sidecars print, too; it is in their logs either way")
	return cmd
}

// run keeps data, logs and component files in dir; empty: in a folder that is removed at the end.
func run(ctx context.Context, out io.Writer, dir string, opts harness.TodoOptions) (err error) {
	h, err := harness.New(harness.Options{Dir: dir, Output: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	_, _ = fmt.Fprintln(out, "starting the todo app: two services, a sidecar for each of them, and dapr-bolt")
	if err := start(ctx, h, out, opts); err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C causes errors on its way
		}
		return err
	}
	if err := h.Watch(ctx); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nstopping")
	return nil
}

func start(ctx context.Context, h *harness.Harness, out io.Writer, opts harness.TodoOptions) error {
	s, err := h.StartTodo(ctx, opts)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nThe todo app is up.")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	for _, service := range []harness.Service{s.API, s.Scheduler} {
		row(service.Name(), "http://%s", service.Address)
		row("  its sidecar", "http://127.0.0.1:%d, gRPC on %d", service.Sidecar.HTTPPort, service.Sidecar.GRPCPort)
	}
	for _, bolt := range slices.Compact([]*harness.Bolt{s.API.Bolt, s.Scheduler.Bolt}) {
		console, err := bolt.ConsoleLink(ctx)
		if err != nil {
			return err
		}
		row(bolt.Name(), "health http://%s/readyz, sockets in %s", bolt.HTTPAddress, bolt.SocketDir)
		row("  its console", "%s", console)
	}
	if s.Servers != nil {
		for _, m := range s.Servers.Etcd.Servers {
			row(m.Name(), "%s, process %d", m.Endpoint, m.PID())
		}
		for _, m := range s.Servers.NATS.Servers {
			row(m.Name(), "%s, monitoring %s, process %d", m.URL, m.Monitor, m.PID())
		}
	}
	row("data, components, logs", "%s", h.Dir())
	_ = table.Flush()
	if s.Servers != nil {
		_, _ = fmt.Fprintln(out, "\nNow a leader of each kind is killed, while todos are made and their events go back and forth.")
		drill := cluster.Drill{Todo: s, Out: out}
		if err := drill.Run(ctx); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(out, `
Try, in another terminal:
  curl -s http://%[1]s/todos -d '{"title": "Water the plants", "due": "2099-12-31"}'
  curl -s http://%[1]s/todos -d '{"title": "Too late", "due": "2001-01-01"}'
  curl -s http://%[1]s/todos

The first is scheduled, the second rejected, the third shows both.
What could not be delivered: %[2]s dead-letters list --data-dir %[3]s
Ctrl-C ends all of it.

`, s.API.Address, s.API.Bolt.Path(), s.API.Bolt.DataDir)
	return nil
}
