package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	outputText = "text"
	outputJSON = "json"
)

// cli holds what commands need, and what the flags say, whichever command they are given to.
type cli struct {
	*environment
	// client asks the process, while a command of command runs.
	client *admin.Client

	dataDir    string
	socketDir  string
	name       string
	httpListen string
	logLevel   string
	logJSON    bool
	// socketGID and allow let other users' sidecars in.
	socketGID *int
	allow     access.Policy
	// What is bounded.
	maxConnections, maxStreams, maxCalls, maxDatabases int
	maxRequestBytes, maxPendingBytes                   byteCount
	names                                              pubsub.NameLimits
	// resubscribe and restartSidecar bring subscriptions back after a restart.
	resubscribe    []string
	restartSidecar string
	console        consoleSettings

	// database is that of a file, bucket the bucket of a command on topics and dead letters; zero: see the command.
	database string
	bucket   admin.Bucket
	output   string
	yes      bool
}

func newRoot(env *environment) *cobra.Command {
	c := &cli{
		environment: env,

		socketDir:  component.DefaultSocketDir(),
		name:       component.DefaultName,
		httpListen: "127.0.0.1:9180",
		logLevel:   "info",

		maxConnections:  component.DefaultMaxConnections,
		maxStreams:      component.DefaultMaxStreams,
		maxCalls:        component.DefaultMaxCalls,
		maxDatabases:    databases.DefaultMaxDatabases,
		maxRequestBytes: component.DefaultMaxRequestBytes,
		maxPendingBytes: pubsub.DefaultPendingBytes,
		names:           pubsub.NameLimits{MaxTopics: pubsub.DefaultMaxTopics, MaxGroups: pubsub.DefaultMaxGroups},

		console: consoleSettings{on: true},

		database: databases.DefaultDatabase,
		output:   outputText,
	}
	root := &cobra.Command{
		Use:   "dapr-bolt",
		Short: "State and events for Dapr in one embedded file",
		Long: `dapr-bolt serves the Dapr component types state.bolt and pubsub.bolt on a Unix socket that Dapr sidecars
load, and keeps both in one file. Without a subcommand it serves until SIGINT or SIGTERM.

The subcommands look into the process that runs on the same --data-dir.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           version(),
		Args:              subcommandArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.prepare(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context(), nil) },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (run %s --help for the flags)", err, cmd.CommandPath())
	})
	root.SetVersionTemplate(newVersion().String() + "\n")
	root.SetIn(env.in)
	root.SetOut(env.out)
	root.SetErr(env.errOut)

	addEnvFlag(root.PersistentFlags(), &c.dataDir, "data-dir", "dir", "where the database files and the admin socket are (default: dapr-bolt/ in $XDG_DATA_HOME or ~/.local/share)", parsePath)

	flags := root.Flags()
	flags.SortFlags = false
	c.processFlags(flags, &c.logLevel)
	addEnvFlag(flags, &c.socketGID, "socket-group", "group", "a group, by name or number, whose members may connect: the socket gets mode 0660", parseGroup)
	addEnvFlag(flags, &c.allow.UIDs, "allow-uid", "uids", "user ids, separated by commas, whose sidecars may connect, and nobody else's: the socket gets mode 0666", parseIDNumbers)
	addEnvFlag(flags, &c.allow.GIDs, "allow-gid", "gids", "group ids, likewise", parseIDNumbers)
	addEnvFlag(flags, &c.maxConnections, "max-connections", "count", "connections that sidecars may have open at once; each has one for each component", parseCount)
	addEnvFlag(flags, &c.maxStreams, "max-streams", "count", "subscriptions that may be open at once", parseCount)
	addEnvFlag(flags, &c.maxCalls, "max-calls", "count", "calls that may be open at once, subscriptions among them", parseCount)
	addEnvFlag(flags, &c.maxDatabases, "max-databases", "count", "database files that may be open at once", parseCount)
	addEnvFlag(flags, &c.names.MaxTopics, "max-topics", "count", "topics that a bucket may have", parseCount)
	addEnvFlag(flags, &c.names.MaxGroups, "max-groups", "count", "consumer groups that a topic may have; as many wildcard subscriptions that a bucket may have", parseCount)
	addEnvFlag(flags, &c.maxPendingBytes, "max-pending-bytes", "bytes", "memory for events to be delivered or acknowledged, of all subscriptions; further events wait on disk", parseBytes)
	addEnvFlag(flags, &c.maxRequestBytes, "max-request-bytes", "bytes", "memory for requests that arrive, for calls that are worked on, and for answers not read yet, each apart", parseBytes)
	addEnvFlag(flags, &c.resubscribe, "resubscribe", "files", "component files, separated by commas, to touch after a restart, so that sidecars subscribe their apps again", parseFiles)
	addEnvFlag(flags, &c.restartSidecar, "restart-sidecar", "url", "a sidecar's URL, to shut it down after a restart, so that Kubernetes starts it afresh; $"+apiTokenVariable+" is sent along", parseURL)
	c.console.addFlags(flags)

	root.AddCommand(
		c.devCommand(),
		c.deadLettersCommand(),
		c.topicsCommand(),
		c.retriesCommand(),
		c.publishCommand(),
		c.stateCommand(),
		c.bucketsCommand(),
		c.overviewCommand(),
		c.consoleCommand(),
		c.backupCommand(),
		c.checkCommand(),
		c.compactCommand(),
		c.restoreCommand(),
		c.migrateCommand(),
		c.healthCommand(),
		c.versionCommand(),
	)
	return root
}

// processFlags are for each command that serves. level is where the log level goes; what it holds is the default.
func (c *cli) processFlags(flags *pflag.FlagSet, level *string) {
	addEnvFlag(flags, &c.socketDir, "socket-dir", "dir", "where sidecars look for component sockets; $"+component.SocketDirVariable+" is theirs and counts here too", parsePath)
	addEnvFlag(flags, &c.name, "name", "name", "the socket's name, and so the component types: state.NAME and pubsub.NAME", parseName)
	addEnvFlag(flags, &c.httpListen, "http-listen", "host:port", "where /healthz, /readyz, /metrics and the console are; empty turns them off", parseListen)
	addEnvFlag(flags, level, "log-level", "level", "debug, info, warn or error", oneOf(logLevels...))
	addSwitch(flags, &c.logJSON, "log-json", "log JSON instead of text")
}

func (c *cli) outputFlag(cmd *cobra.Command, flags *pflag.FlagSet) {
	addFlag(flags, &c.output, "output", "format", "text for people, json for programs", oneOf(outputText, outputJSON))
	completeFlag(cmd, "output", cobra.FixedCompletions([]string{outputText, outputJSON}, cobra.ShellCompDirectiveNoFileComp))
}

// fileFlags are for commands on the file of one database.
func (c *cli) fileFlags(cmd *cobra.Command) {
	c.outputFlag(cmd, cmd.Flags())
	addFlag(cmd.Flags(), &c.database, "database", "name", "the database: DATABASE.db in the data directory", parseName)
}

// bucketFlags are for commands on what is in buckets of a kind. all says which look into all of them by default; empty:
// none does.
func (c *cli) bucketFlags(cmd *cobra.Command, kind sidecars.Kind, all string) {
	flags, bucket := cmd.PersistentFlags(), databases.DefaultPubSubBucket
	if kind == sidecars.State {
		bucket = databases.DefaultStateBucket
	}
	standard := " (default: %s)"
	if all != "" {
		standard = fmt.Sprintf(" (default: of %s, all; else %%s)", all)
	}
	addFlag(flags, &c.bucket.Database, "database", "name", "the database: DATABASE.db in the data directory"+fmt.Sprintf(standard, databases.DefaultDatabase), parseName)
	addFlag(flags, &c.bucket.Name, "bucket", "name", "the bucket of the database, as in the component's metadata"+fmt.Sprintf(standard, bucket), parseName)
	completeFlag(cmd, "database", c.completeBucket(kind, func(b admin.Bucket) string { return b.Database }))
	completeFlag(cmd, "bucket", c.completeBucket(kind, func(b admin.Bucket) string { return b.Name }))
}

// prepare reads the environment and finds the data directory.
func (c *cli) prepare(cmd *cobra.Command) (err error) {
	if err := applyEnv(cmd.Flags(), c.lookupEnv); err != nil {
		return err
	}
	if c.dataDir == "" {
		if c.dataDir, err = defaultDataDir(c.lookupEnv); err != nil {
			return err
		}
	}
	if c.dataDir, err = filepath.Abs(c.dataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// defaultDataDir follows the XDG Base Directory Specification, which ignores relative paths.
func defaultDataDir(lookup func(string) (string, bool)) (string, error) {
	const name = "dapr-bolt"
	if dir, _ := lookup("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, name), nil
	}
	if home, _ := lookup("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", name), nil
	}
	return "", usagef("--data-dir has no default: neither XDG_DATA_HOME nor HOME holds an absolute path; name a directory")
}

func (c *cli) adminSocket() string { return filepath.Join(c.dataDir, admin.SocketName) }
