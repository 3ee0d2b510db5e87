package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// runPorts are fixed, so that what README and browser history say stays true.
var runPorts = harness.TodoPorts{
	API: 8000, Scheduler: 8001,
	Bolt: 9180, SchedulerBolt: 9181,
	APISidecarHTTP: 3500, APISidecarGRPC: 50001,
	SchedulerSidecarHTTP: 3501, SchedulerSidecarGRPC: 50002,
}

type runOptions struct {
	Dir          string // holds data, logs and component files, and stays
	Ports        harness.TodoPorts
	ShowSidecars bool
}

func newRunCommand() *cobra.Command {
	var showSidecars bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the todo app until Ctrl-C; the todos stay in .run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			return run(cmd.Context(), checkout, cmd.OutOrStdout(), runOptions{
				Dir: checkout.Path(".run"), Ports: runPorts, ShowSidecars: showSidecars,
			})
		},
	}
	cmd.Flags().BoolVar(&showSidecars, "show-sidecars", false, "show what the Dapr sidecars print, too; it is in .run/logs either way")
	return cmd
}

func run(ctx context.Context, checkout harness.Checkout, out io.Writer, opts runOptions) (err error) {
	// Before the builds, which may take minutes.
	if err := opts.Ports.Check(); err != nil {
		return err
	}
	programs, err := checkout.BuildPrograms(ctx, os.Stderr)
	if err != nil {
		return unlessInterrupted(ctx, err)
	}
	h, err := harness.New(harness.Options{Dir: opts.Dir, Output: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()

	components := h.Dir("components")
	if err := harness.CopyComponents(checkout.Path("components"), components); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "starting dapr-bolt, two sidecars and two services")
	s, err := h.StartTodo(ctx, harness.TodoOptions{
		Programs:      programs,
		Components:    components,
		Ports:         opts.Ports,
		SidecarArgs:   harness.AppHealthChecks,
		QuietSidecars: !opts.ShowSidecars,
	})
	if err != nil {
		return unlessInterrupted(ctx, err)
	}
	console, err := s.Bolt.ConsoleLink(ctx)
	if err != nil {
		return unlessInterrupted(ctx, err)
	}
	welcome(out, h, s, programs, console)
	if err := h.Watch(ctx); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nstopping")
	return nil
}

// unlessInterrupted drops the errors that Ctrl-C causes on its way.
func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func welcome(out io.Writer, h *harness.Harness, s *harness.Todo, programs harness.Programs, console string) {
	_, _ = fmt.Fprintln(out, "\nThe todo app is up.")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"todo api", "http://" + s.API.Address},
		{"  its sidecar", fmt.Sprintf("http://127.0.0.1:%d, gRPC on %d", s.APISidecar.HTTPPort, s.APISidecar.GRPCPort)},
		{"todo scheduler", "http://" + s.Scheduler.Address},
		{"  its sidecar", fmt.Sprintf("http://127.0.0.1:%d, gRPC on %d", s.SchedulerSidecar.HTTPPort, s.SchedulerSidecar.GRPCPort)},
		{"dapr-bolt", fmt.Sprintf("health http://%s/readyz, sockets in %s", s.Bolt.HTTPAddress, s.Bolt.SocketDir)},
		{"its console", console},
		{"data", s.Bolt.DataDir},
		{"components", h.Dir("components")},
		{"logs", h.Dir("logs")},
	} {
		_, _ = fmt.Fprintf(table, "  %s\t%s\n", row[0], row[1])
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(out, `
Try, in another terminal:
  curl -s http://%[1]s/todos -d '{"title": "Water the plants", "due": "2099-12-31"}'
  curl -s http://%[1]s/todos -d '{"title": "Too late", "due": "2001-01-01"}'
  curl -s http://%[1]s/todos

The first is scheduled, the second rejected, the third shows both.
What could not be delivered: %[2]s dead-letters list --data-dir %[3]s
Ctrl-C ends all of it.

`, s.API.Address, programs.Bolt, s.Bolt.DataDir)
}
