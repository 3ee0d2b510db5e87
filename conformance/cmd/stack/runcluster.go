package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/cluster"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func newRunClusterCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run-cluster",
		Short: "Run the todo app in two \"Pods\" over three etcd and three nats-servers, kill a leader of each, and go on until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return unlessInterrupted(cmd.Context(), runCluster(cmd.Context(), cmd.OutOrStdout()))
		},
	}
}

func runCluster(ctx context.Context, out io.Writer) (err error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return err
	}
	if err := runPorts.Check(); err != nil {
		return err
	}
	programs, err := checkout.BuildPrograms(ctx, os.Stderr)
	if err != nil {
		return err
	}
	h, err := harness.New(harness.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()

	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	say("starting three etcd and three nats-servers")
	servers, err := h.StartServers(ctx, checkout, os.Stderr)
	if err != nil {
		return err
	}
	components, err := clusterComponents(checkout, h, servers)
	if err != nil {
		return err
	}
	say("starting two dapr-bolts, two sidecars and two services")
	s, err := h.StartTodo(ctx, harness.TodoOptions{
		Programs:    programs,
		Components:  components,
		Pods:        true,
		Ports:       runPorts,
		SidecarArgs: harness.AppHealthChecks,
	})
	if err != nil {
		return err
	}
	consoles := map[*harness.Bolt]string{}
	for _, bolt := range []*harness.Bolt{s.Bolt, s.SchedulerBolt} {
		if consoles[bolt], err = bolt.ConsoleLink(ctx); err != nil {
			return err
		}
	}
	say("\nThe todo app is up, its state on etcd and its events on NATS JetStream.")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { _, _ = fmt.Fprintf(table, "  %s\t%s\n", name, value) }
	row("todo api", "http://"+s.API.Address)
	row("  its dapr-bolt", fmt.Sprintf("health http://%s/readyz, console %s", s.Bolt.HTTPAddress, consoles[s.Bolt]))
	row("todo scheduler", "http://"+s.Scheduler.Address)
	row("  its dapr-bolt", fmt.Sprintf("health http://%s/readyz, console %s", s.SchedulerBolt.HTTPAddress, consoles[s.SchedulerBolt]))
	for _, m := range servers.Etcd.Servers {
		row(m.Name(), fmt.Sprintf("%s, process %d", m.Endpoint, m.PID()))
	}
	for _, m := range servers.NATS.Servers {
		row(m.Name(), fmt.Sprintf("%s, monitoring %s, process %d", m.URL, m.Monitor, m.PID()))
	}
	row("components, logs", h.Dir()+": removed at the end")
	_ = table.Flush()

	say("\nNow a leader of each kind is killed, while todos are made and their events go back and forth.")
	drill := cluster.Drill{Todo: s, Servers: servers, Out: out}
	if err := drill.Run(ctx); err != nil {
		return err
	}
	say(`
Try, in another terminal:
  curl -s http://%[1]s/todos -d '{"title": "Water the plants", "due": "2099-12-31"}'
  curl -s http://%[1]s/todos
  %[2]s topics --data-dir %[3]s

Ctrl-C ends all of it.`, s.API.Address, programs.Bolt, s.Bolt.DataDir)
	if err := h.Watch(ctx); err != nil {
		return err
	}
	say("\nstopping")
	return nil
}

// clusterComponents copies the todo app's component files, with the servers in them, and returns their folder.
func clusterComponents(checkout harness.Checkout, h *harness.Harness, servers *harness.Servers) (string, error) {
	var all []harness.Component
	for _, name := range []string{harness.StoreComponent, harness.PubSubComponent} {
		c, err := harness.ReadComponent(filepath.Join(checkout.Path("components"), name+".yaml"))
		if err != nil {
			return "", err
		}
		servers.Use(&c)
		all = append(all, c)
	}
	return h.Dir("components"), harness.WriteComponents(h.Dir("components"), all...)
}
