// Command bench measures dapr-bolt beside its peers; see package performance.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	var sections []string
	var report, saved string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure dapr-bolt beside its peers and write the report",
		Args:  cobra.NoArgs,
		// An error is not about the command line.
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if saved != "" {
				results, err := load(saved)
				if err != nil {
					return err
				}
				return write(cmd, results, report)
			}
			opts.Progress = cmd.ErrOrStderr()
			for _, name := range sections {
				opts.Sections = append(opts.Sections, performance.Section(name))
			}
			results, err := performance.Run(cmd.Context(), opts)
			if results == nil {
				return err
			}
			// What was measured before an error is worth keeping, but is no report.
			if err != nil {
				return errors.Join(err, save(results, filepath.Join(report, "unfinished.json")))
			}
			return write(cmd, results, report)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&report, "report", "performance", "directory for the report")
	flags.StringVar(&saved, "from", "", "write the report of an earlier run's results.json, and measure nothing")
	flags.StringSliceVar(&sections, "sections", nil, fmt.Sprintf("parts to run, of %v (default all)", performance.Sections()))
	flags.StringVar(&opts.Dir, "dir", "", "directory, on the disk to measure, for the databases (default .cache/bench in the checkout)")
	flags.IntVar(&opts.Rounds, "rounds", 0, "how often everything is measured; medians count (default 3)")
	flags.DurationVar(&opts.Duration, "duration", 0, "length of one measurement (default 1.5s)")
	flags.IntSliceVar(&opts.Clients, "clients", nil, "numbers of clients (default 1,16,64,256)")
	flags.IntSliceVar(&opts.Sizes, "sizes", nil, "sizes of values and events, in bytes (default 128,1024,65536)")
	cmd.AddCommand(&cobra.Command{
		Use:    performance.BareServerCommand + " SOCKET KEEPER FILE",
		Args:   cobra.ExactArgs(3),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return performance.ServeBare(cmd.Context(), args[0], performance.BareKeeper(args[1]), args[2])
		},
	})
	return cmd
}

// resultsName is the file with every single sample, from which the report can be written again.
const resultsName = "results.json"

func write(cmd *cobra.Command, results *performance.Results, dir string) error {
	var text, plot bytes.Buffer
	err := results.WriteMarkdown(&text)
	if err == nil && results.Plots() {
		err = results.WritePlot(&plot)
	}
	if err := errors.Join(err, save(results, filepath.Join(dir, resultsName))); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "RESULTS.md"), text.Bytes(), 0o644); err != nil {
		return err
	}
	if plot.Len() > 0 {
		if err := os.WriteFile(filepath.Join(dir, performance.PlotName), plot.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", strings.TrimSpace(text.String())); err != nil {
		return err
	}
	return results.WritePromises(cmd.ErrOrStderr())
}

func save(results *performance.Results, path string) error {
	raw, err := json.Marshal(results)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

func load(path string) (*performance.Results, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var results performance.Results
	if err := json.Unmarshal(raw, &results); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &results, nil
}
