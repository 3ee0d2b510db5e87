package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// usageError refuses a command line, or the environment's part in it.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// command returns a subcommand that calls run, which has c.client to ask the process. The words in capitals of the use line are
// the arguments, by which they are checked and completed: NAME must be there, [NAME] may be, and of [NAME...] any number.
func (c *cli) command(use, short string, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: checkArgs, ValidArgsFunction: c.completeArgs(argNames(use)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func() error { return run(cmd.Context(), args) })
		},
	}
}

// family returns a command that has subcommands on what is in buckets of a kind, and does nothing by itself. all is as in
// bucketFlags.
func (c *cli) family(use, short string, kind sidecars.Kind, all string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: subcommandArgs, RunE: needsSubcommand}
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, kind, all)
	return cmd
}

// withClient lets fn call the process that runs on the data directory, with c.client.
func (c *cli) withClient(fn func() error) error {
	c.client = admin.NewClient(c.adminSocket())
	defer c.client.Close()
	err := fn()
	if _, ok := errors.AsType[*admin.NotRunningError](err); ok {
		return fmt.Errorf("%w: start it with: dapr-bolt --data-dir %s, or name the data directory of the one that runs with --data-dir", err, c.dataDir)
	}
	return err
}

// argNames are the arguments that a use line names: its words in capitals, with their brackets.
func argNames(use string) []string {
	return slices.DeleteFunc(strings.Fields(use), func(word string) bool { return word != strings.ToUpper(word) })
}

// anyBytes are the arguments that need not be text. JSON, in which the process is asked, has text alone: another one would
// arrive changed.
var anyBytes = []string{"FILE", "VALUE", "DATA", "QUERY"}

func checkArgs(cmd *cobra.Command, args []string) error {
	names, path := argNames(cmd.Use), cmd.CommandPath()
	if len(names) == 0 && len(args) > 0 {
		return usagef("unknown argument %q for %q", args[0], path)
	}
	least, most := 0, len(names)
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, "...]"):
			most = len(args)
		case name[0] != '[':
			least++
		}
	}
	if len(args) < least || len(args) > most {
		given := "no arguments"
		if len(args) > 0 {
			given = fmt.Sprintf("%s %q", count(len(args), "argument", "arguments"), args)
		}
		allowed := path + " " + strings.Join(names, " ")
		if least == 0 {
			allowed = "at most one " + strings.Trim(names[0], "[]")
		}
		return usagef("%s behind %s: allowed: %s", given, path, allowed)
	}
	for i, arg := range args {
		name := strings.Trim(names[min(i, len(names)-1)], "[].")
		if !utf8.ValidString(arg) && !slices.Contains(anyBytes, name) {
			return usagef("invalid %s %q: allowed: UTF-8", name, arg)
		}
	}
	return nil
}

// subcommandArgs answers a subcommand that there is not, with the nearest or with all that there are.
func subcommandArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := "allowed: " + subcommands(cmd)
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("unknown command %q for %q: %s", args[0], cmd.CommandPath(), hint)
}

// needsSubcommand answers a command that does nothing by itself.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	return usagef("%s needs a subcommand: allowed: %s", cmd.CommandPath(), subcommands(cmd))
}

func subcommands(cmd *cobra.Command) string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return strings.Join(names, ", ")
}
