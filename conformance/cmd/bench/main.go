// Command bench measures dapr-bolt beside its peers; see package performance.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/performance"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var opts performance.Options
	var report, base string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure dapr-bolt beside its peers and write the report",
		Args:  cobra.NoArgs,
		// An error is not about the command line.
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = cmd.ErrOrStderr()
			if base != "" {
				checkout, err := harness.FindCheckout()
				if err != nil {
					return err
				}
				if opts.Base, err = checkout.CommandAt(cmd.Context(), "dapr-bolt", base); err != nil {
					return err
				}
			}
			results, err := performance.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			return write(results, report)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&report, "report", "performance", "directory for the report")
	flags.StringVar(&base, "base", "", "commit whose build is measured as a peer")
	flags.StringSliceVar(&opts.Parts, "parts", performance.Parts(), "parts to run")
	flags.StringVar(&opts.Dir, "dir", "", "directory, on the disk to measure, for the databases (default .cache/bench in the checkout)")
	flags.IntVar(&opts.Rounds, "rounds", 9, "how often everything is measured; medians count")
	flags.DurationVar(&opts.Turn, "turn", 500*time.Millisecond, "length of one measurement")
	flags.IntVar(&opts.Keys, "keys", 10_000_000, "keys in the large file")
	flags.IntVar(&opts.Events, "events", 5_000_000, "events in the large file")
	cmd.AddCommand(&cobra.Command{
		Use:    performance.BareServerCommand + " SOCKET FILE|ENDPOINTS",
		Args:   cobra.ExactArgs(2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return performance.ServeBare(cmd.Context(), args[0], args[1])
		},
	})
	return cmd
}

// write leaves the report, the plot, and every single sample, in dir.
func write(results *performance.Results, dir string) error {
	samples, err := json.Marshal(results)
	plot, plotErr := results.Plot()
	if err := errors.Join(err, plotErr, os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	text := results.Markdown()
	for name, content := range map[string]string{"results.json": string(samples), "RESULTS.md": text, performance.PlotName: plot} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Println(text)
	return nil
}
