package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

func (c *cli) backupCommand() *cobra.Command {
	cmd := c.command("backup FILE", "Copy a database to a new file while the process runs", func(ctx context.Context, args []string) error {
		// The process has a working directory of its own.
		path, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		result, err := admin.CallBackup.Ask(ctx, c.client, admin.BackupRequest{Database: c.database, Path: path})
		if err == nil {
			err = c.checkSeen(result)
		}
		return show(c, result, err, func(result admin.BackupResult) error {
			return c.printf("%s: %s of database %s\n", result.Path, admin.ByteSize(result.Size), result.Database)
		})
	})
	cmd.Long = `Copy a database to a new file while the process runs. The copy is consistent and synced; go back to it
with restore.`
	c.fileFlags(cmd)
	return cmd
}

// checkSeen refuses a backup that is not where the command was told to put it: the process may have a folder of that name of its
// own, which goes with it.
func (c *cli) checkSeen(result admin.BackupResult) error {
	info, err := os.Stat(result.Path)
	if err == nil && info.Size() == result.Size || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // or this user may not look
	}
	return fmt.Errorf("%s: the process has written it to a folder of its own, as systemd's PrivateTmp and containers have them, where it may be lost: allowed: a path that is the same one here and there, such as %s",
		result.Path, filepath.Join(c.dataDir, "backup"))
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
	cmd := c.command("compact [FILE]", "Give the unused space of a database file at rest back", func(ctx context.Context, args []string) error {
		result, err := compactResult{Path: c.file(args)}, error(nil)
		result.Before, result.After, err = boltdb.Compact(ctx, result.Path)
		return show(c, result, notThere(stopFirst(err)), func(r compactResult) error {
			if r.After == r.Before {
				return c.printf("%s: left as it is: a copy would not be smaller than its %s\n", r.Path, admin.ByteSize(r.Before))
			}
			return c.printf("%s: %s before, %s after\n", r.Path, admin.ByteSize(r.Before), admin.ByteSize(r.After))
		})
	})
	cmd.Long = `Give the unused space of a database file at rest back to the file system. It writes a copy beside the file, which
needs that much free space, and puts it in the file's place in one step. The copy has the file's owner, group and mode. One
that would not be smaller is dropped. Every page is read first: a damaged file is refused, and stays as it is.`
	c.fileFlags(cmd)
	return cmd
}

type restoreResult struct {
	Path string `json:"path"`
	// Kept is where the file is that was there before; empty: there was none.
	Kept string `json:"kept"`
}

func (c *cli) restoreCommand() *cobra.Command {
	cmd := c.command("restore FILE", "Put a backup in the place of a database file at rest", func(ctx context.Context, args []string) error {
		result, err := restoreResult{Path: databases.FilePath(c.dataDir, c.database)}, error(nil)
		result.Kept, err = boltdb.Restore(ctx, args[0], result.Path, stateengine.Check)
		return show(c, result, stopFirst(err), func(r restoreResult) error {
			if r.Kept != "" {
				fmt.Fprintf(c.out, "%s: kept as %s\n", r.Path, r.Kept)
			}
			return c.printf("%s: restored from %s\n", r.Path, args[0])
		})
	})
	cmd.Long = `Put a copy of a backup in the place of a database file at rest, with its owner, group and mode; where there is none, it
belongs to whom the data directory does. The backup is checked first. What was there is kept under another name, which is
printed. All ETags that were given out so far are invalid from then on.`
	c.fileFlags(cmd)
	return cmd
}

// stopFirst says what to do about a file that a process has open.
func stopFirst(err error) error {
	if errors.Is(err, boltdb.ErrLocked) {
		return fmt.Errorf("%w: stop it first", err)
	}
	return err
}

// notThere says what to do about a file that is not there.
func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: name the file, or its --data-dir and --database", err)
	}
	return err
}

// maxProblems bounds what is listed.
const maxProblems = 20

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
	cmd := c.command("check [FILE]", "Read every page of a database file at rest and say what is damaged", func(ctx context.Context, args []string) error {
		report, err := checkFile(ctx, c.file(args))
		err = show(c, report, err, func(r checkReport) error {
			if r.Sound {
				return c.printf("%s: sound\n", r.Path)
			}
			lines := strings.Join(r.Problems, "\n")
			if r.More {
				lines += "\nand more"
			}
			return c.printf("%s\n", harmless(lines))
		})
		if err == nil && !report.Sound {
			err = fmt.Errorf("%s is damaged", report.Path)
		}
		return err
	})
	cmd.Long = `Read every page of a database file at rest, or of a backup, and say what is damaged. It changes nothing, but that
it brings a log that a crash has left beside the file into it. The exit code is 1 if anything is damaged.`
	c.fileFlags(cmd)
	return cmd
}

// checkFile reads the file and lists what is damaged.
func checkFile(ctx context.Context, path string) (checkReport, error) {
	report := checkReport{Path: path, Problems: []string{}}
	err := boltdb.Check(ctx, path, func(problem error) {
		if report.More = len(report.Problems) == maxProblems; !report.More {
			report.Problems = append(report.Problems, problem.Error())
		}
	}, stateengine.Check)
	if errors.Is(err, boltdb.ErrLocked) {
		err = fmt.Errorf("%w: check a copy instead: dapr-bolt backup FILE, then dapr-bolt check FILE", err)
	}
	report.Sound = len(report.Problems) == 0
	return report, notThere(err)
}
