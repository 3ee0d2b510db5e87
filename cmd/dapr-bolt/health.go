package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) healthCommand() *cobra.Command {
	within := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the process whether it serves and can write its databases",
		Long: `Ask the process whether it serves and can write its databases. The exit code is 0 if so, else 1, also
when the process does not answer in time.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), within, fmt.Errorf("no answer within %s", within))
			defer cancel()
			ready := func(client *admin.Client) (admin.Info, error) {
				if _, err := admin.CallReady.Ask(ctx, client, admin.Empty{}); err != nil {
					return admin.Info{}, err
				}
				return admin.CallInfo.Ask(ctx, client, admin.Empty{})
			}
			return learn(c, ready, func(info admin.Info) error {
				fmt.Fprintf(c.out, "process %d (%s) serves %s\n", info.PID, info.Version, info.Socket)
				for _, db := range info.Databases {
					fmt.Fprintf(c.out, "database %s: %s, %s\n", db.Name, db.Path, byteSize(db.Size))
				}
				return nil
			})
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	addFlag(cmd.Flags(), &within, "timeout", within.String(), "duration", "how long to wait for the answer", parseInterval)
	return cmd
}
