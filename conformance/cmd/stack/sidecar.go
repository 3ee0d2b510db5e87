package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func newSidecarCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sidecar",
		Short: "Build the pinned Dapr sidecar, if it is not in the cache yet, and print its path",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			daprd, err := checkout.Daprd(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), daprd)
			return err
		},
	}
}
