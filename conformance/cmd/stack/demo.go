package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/e2e"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Play the todo app's story against real sidecars, on free ports and with data of its own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func demo(ctx context.Context, out io.Writer) (err error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return err
	}
	h, err := harness.New(harness.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			h.Keep()
			err = fmt.Errorf("%w\nthe logs are in %s", err, h.Dir("logs"))
		}
		err = errors.Join(err, h.Close())
	}()
	_, _ = fmt.Fprintln(out, "starting dapr-bolt, two sidecars and two services")
	s, err := e2e.Start(ctx, h, checkout, os.Stderr)
	if err != nil {
		return err
	}
	if err := s.Play(ctx, out); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nevery step was seen")
	return nil
}
