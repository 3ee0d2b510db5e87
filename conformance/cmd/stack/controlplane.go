package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func newControlPlaneCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "control-plane",
		Short: "Build Dapr's placement and scheduler services, if they are not in the cache yet, and print their paths",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			placement, err := checkout.Placement(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			scheduler, err := checkout.Scheduler(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", placement, scheduler)
			return err
		},
	}
}
