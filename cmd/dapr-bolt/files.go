package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

func (c *cli) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy a database to a new file while the process runs",
		Long: `Copy a database to a new file while the process runs. The copy is consistent and synced; put it in place of
the database file, with no process running, to go back to it. Of a file at rest, any copy is a backup.`,
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
	c.outputFlag(cmd.Flags())
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
needs that much free space, and puts it in the file's place in one step. A file that an earlier version made is laid out anew,
so that writes to it cost as little as to a new one.`,
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
			_, err = fmt.Fprintf(c.out, "%s: %s before, %s after\n", path, byteSize(before), byteSize(after))
			return err
		},
	}
	c.outputFlag(cmd.Flags())
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
