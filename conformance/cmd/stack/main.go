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
	root.AddCommand(newRunCommand(), newRunClusterCommand(), newDemoCommand(), newSidecarCommand(), newControlPlaneCommand())
	return root
}
