package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// build makes a program, unless it is in the cache already, and returns its path.
type build func(c harness.Checkout, ctx context.Context, progress io.Writer) (string, error)

func newSidecarCommand() *cobra.Command {
	return newBuildCommand("sidecar", "the pinned Dapr sidecar", harness.Checkout.Daprd)
}

func newControlPlaneCommand() *cobra.Command {
	return newBuildCommand("control-plane", "Dapr's placement and scheduler services", harness.Checkout.Placement, harness.Checkout.Scheduler)
}

func newBuildCommand(use, what string, builds ...build) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: "Build " + what + ", if not in the cache yet, and print where it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			for _, build := range builds {
				path, err := build(checkout, cmd.Context(), cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
}
