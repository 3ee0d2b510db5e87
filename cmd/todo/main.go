// Command todo is the todo app: two services that agree on todos over a Dapr sidecar each.
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "todo:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "todo",
		Short: "A todo app of two services on Dapr",
		Long: `todo is an app of two services, each next to its own Dapr sidecar: "todo api" keeps
todos and offers them over HTTP, "todo scheduler" books a slot for each new one.

Each flag can be given as an environment variable, too: --log-level is TODO_LOG_LEVEL.
The sidecar is looked for where DAPR_GRPC_ENDPOINT or DAPR_GRPC_PORT says.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newAPICommand(), newSchedulerCommand())
	return root
}
