package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// get downloads or builds a program, unless it is in the cache already, and returns its path.
type get func(c harness.Checkout, ctx context.Context) (string, error)

func newGetCommand(use, what string, gets ...get) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: "Download or build " + what + ", if not in the cache yet, and print where it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkout, err := harness.FindCheckout()
			if err != nil {
				return err
			}
			for _, get := range gets {
				path, err := get(checkout, cmd.Context())
				if err != nil {
					return err
				}
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
}
