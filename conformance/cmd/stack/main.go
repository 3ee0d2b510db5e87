// Command stack runs the whole of the todo app on one machine: dapr-bolt, a Dapr
// sidecar for each service, and the services; also with servers of a cluster.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C ends everything in order, a second one at once.
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "stack",
		Short:         "Run the todo app with real Dapr sidecars on one dapr-bolt",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newRunCommand("run", "Run the todo app until Ctrl-C; the todos stay in .run", false),
		newRunCommand("run-cluster", "Run the todo app in two \"Pods\" over three etcd and three nats-servers, kill a leader of each, and go on until Ctrl-C", true),
		newGetCommand("sidecar", "the pinned Dapr sidecar", harness.Checkout.Daprd),
		newGetCommand("control-plane", "Dapr's placement and scheduler services", harness.Checkout.Placement, harness.Checkout.Scheduler))
	return root
}
