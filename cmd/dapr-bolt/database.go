package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

func (c *cli) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy a database to a new file while the process runs",
		Long: `Copy a database to a new file while the process runs. The copy is consistent and synced; go back to it
with restore.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The process has a working directory of its own.
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return c.withClient(func(client *admin.Client) error {
				result, err := client.Backup(cmd.Context(), c.database, path)
				if err != nil {
					return err
				}
				if c.output == outputJSON {
					return c.printJSON(result)
				}
				_, err = fmt.Fprintf(c.out, "%s: %s of database %s\n", result.Path, byteSize(result.Size), result.Database)
				return err
			})
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	c.databaseFlag(cmd.Flags())
	return cmd
}

// file is the one that a command names, else the database's.
func (c *cli) file(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return databases.FilePath(c.dataDir, c.database)
}

type compactResult struct {
	Path   string `json:"path"`
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

func (c *cli) compactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compact [FILE]",
		Short: "Give the unused space of a database file at rest back",
		Long: `Give the unused space of a database file at rest back to the file system. It writes a copy beside the file, which
needs that much free space, and puts it in the file's place in one step. The copy has the file's owner, group and mode. One
that would not be smaller is dropped.`,
		Args: atMostOneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := c.file(args)
			before, after, err := boltdb.Compact(cmd.Context(), path)
			switch {
			case errors.Is(err, boltdb.ErrLocked):
				return fmt.Errorf("%w: stop it first", err)
			case err != nil:
				return notThere(err)
			}
			if c.output == outputJSON {
				return c.printJSON(compactResult{Path: path, Before: before, After: after})
			}
			if after == before {
				_, err = fmt.Fprintf(c.out, "%s: left as it is: a copy would not be smaller than its %s\n", path, byteSize(before))
				return err
			}
			_, err = fmt.Fprintf(c.out, "%s: %s before, %s after\n", path, byteSize(before), byteSize(after))
			return err
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	c.databaseFlag(cmd.Flags())
	return cmd
}

type restoreResult struct {
	Path string `json:"path"`
	// Kept is where the file is that was there before; empty: there was none.
	Kept string `json:"kept"`
}

func (c *cli) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of a database file at rest",
		Long: `Put a copy of a backup in the place of a database file at rest, with its owner, group and mode. The backup is
checked first. What was there is kept under another name, which is printed. ETags that were given out after the backup, or after
an earlier restore of it, are invalid from then on.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := runChecker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if !report.Sound {
				return errors.Join(c.printReport(report), fmt.Errorf("restore: %w: %s", boltdb.ErrUnsound, args[0]))
			}
			result := restoreResult{Path: databases.FilePath(c.dataDir, c.database)}
			result.Kept, err = boltdb.Restore(cmd.Context(), args[0], result.Path, stateengine.Check)
			switch {
			case errors.Is(err, boltdb.ErrLocked):
				return fmt.Errorf("%w: stop it first", err)
			case err != nil:
				return err
			case c.output == outputJSON:
				return c.printJSON(result)
			}
			if result.Kept != "" {
				if _, err := fmt.Fprintf(c.out, "%s: kept as %s\n", result.Path, result.Kept); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(c.out, "%s: restored from %s\n", result.Path, args[0])
			return err
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	c.databaseFlag(cmd.Flags())
	return cmd
}

// notThere says what to do about a file that is not there.
func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: name the file, or its --data-dir and --database", err)
	}
	return err
}

const (
	// maxProblems bounds what is listed: one damaged page can have any number of consequences.
	maxProblems = 20
	// moreWithin is how long the search goes on after the first problem: a wrong number in a page can send it through
	// pages that do not exist for hours.
	moreWithin = 5 * time.Second
)

// checkReport is what was found.
type checkReport struct {
	Path  string `json:"path"`
	Sound bool   `json:"sound"`
	// Problems says what is damaged.
	Problems []string `json:"problems"`
	// More says that there are more problems than are listed.
	More bool `json:"more"`
}

func (c *cli) checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Read every page of a database file at rest and say what is damaged",
		Long: `Read every page of a database file at rest, or of a backup, and say what is damaged. It changes nothing. The exit
code is 1 if anything is damaged.`,
		Args: atMostOneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := runChecker(cmd.Context(), c.file(args))
			if err != nil {
				return err
			}
			if c.output == outputJSON {
				err = c.printJSON(report)
			} else {
				err = c.printReport(report)
			}
			if err == nil && !report.Sound {
				err = fmt.Errorf("%s is damaged", report.Path)
			}
			return err
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	c.databaseFlag(cmd.Flags())
	return cmd
}

func (c *cli) printReport(r checkReport) error {
	var b strings.Builder
	for _, problem := range r.Problems {
		fmt.Fprintln(&b, harmless(problem))
	}
	if r.More {
		fmt.Fprintln(&b, "and more")
	}
	if r.Sound {
		fmt.Fprintf(&b, "%s: sound\n", r.Path)
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

// checkerName is the hidden command that checks in a process of its own: reading a damaged file can end the process
// that does it (see boltdb.Check).
const checkerName = "check-pages"

// checkerLine is what that process writes, one JSON object a line.
type checkerLine struct {
	Problem string `json:"problem,omitempty"`
	// Error says why the file could not be read.
	Error string `json:"error,omitempty"`
	// Done says that every page was read.
	Done bool `json:"done,omitempty"`
}

func (c *cli) checkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    checkerName + " FILE",
		Hidden: true,
		Args:   exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			enc := json.NewEncoder(c.out)
			var writeErr error
			err := boltdb.Check(cmd.Context(), args[0], func(problem error) {
				if writeErr == nil {
					writeErr = enc.Encode(checkerLine{Problem: problem.Error()})
				}
			}, stateengine.Check)
			switch {
			case errors.Is(err, boltdb.ErrLocked):
				err = fmt.Errorf("%w: check a copy instead: dapr-bolt backup FILE, then dapr-bolt check FILE", err)
			case err != nil:
				err = notThere(err)
			}
			last := checkerLine{Done: true}
			if err != nil {
				last = checkerLine{Error: err.Error()}
			}
			return errors.Join(writeErr, enc.Encode(last))
		},
	}
}

// runChecker starts a process that checks the file, and ends it once it has said enough.
func runChecker(ctx context.Context, path string) (report checkReport, err error) {
	report = checkReport{Path: path, Problems: []string{}}
	self, err := os.Executable()
	if err != nil {
		return report, fmt.Errorf("check: %w", err)
	}
	running, end := context.WithCancel(ctx)
	defer end()
	checker := exec.CommandContext(running, self, checkerName, "--", path)
	var stderr bytes.Buffer
	checker.Stderr = &stderr
	stdout, err := checker.StdoutPipe()
	if err != nil {
		return report, fmt.Errorf("check: %w", err)
	}
	if err := checker.Start(); err != nil {
		return report, fmt.Errorf("check: %w", err)
	}
	var line checkerLine
	var enough atomic.Bool
	var cutOff *time.Timer
	for dec := json.NewDecoder(stdout); ; line = (checkerLine{}) {
		if err = dec.Decode(&line); err != nil || line.Done || line.Error != "" {
			break
		}
		if len(report.Problems) == maxProblems {
			enough.Store(true)
			break
		}
		report.Problems = append(report.Problems, line.Problem)
		if cutOff == nil {
			cutOff = time.AfterFunc(moreWithin, func() { enough.Store(true); end() })
			defer cutOff.Stop()
		}
	}
	interrupted := ctx.Err()
	end()
	waitErr := checker.Wait()
	report.More = enough.Load() && !line.Done
	switch {
	case interrupted != nil:
		return report, fmt.Errorf("check: %w", context.Cause(ctx))
	case line.Error != "":
		return report, errors.New(line.Error)
	case err != nil && !report.More:
		first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		report.Problems = append(report.Problems, fmt.Sprintf("reading it ended in a fault: %s (%v)", first, waitErr))
	}
	report.Sound = len(report.Problems) == 0
	return report, nil
}
