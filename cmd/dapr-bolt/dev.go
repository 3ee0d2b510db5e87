package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) devCommand() *cobra.Command {
	o := appOptions{components: "components", logLevel: "warn", protocol: "http", healthPath: "/healthz"}
	cmd := c.command("dev [flags] [-- COMMAND…]", "Serve, write component files, and run an app with its sidecar, until Ctrl-C", func(ctx context.Context, args []string) error {
		o.command = args
		return c.dev(ctx, &o)
	})
	cmd.Long = `Serve for a developer's day. Where --components has no component files, two are written: statestore and pubsub.
With a command, or with a run file, 'dapr run' starts the app beside a sidecar that loads them, and Ctrl-C ends
everything. Where a dapr-bolt serves the same data directory already, it is used.

dapr-bolt dev                                                     serve, and say how to start apps
dapr-bolt dev --app-id orders --app-port 8000 -- python app.py    serve, and run an app
dapr-bolt dev -f dapr.yaml                                        serve, and run all apps of a run file`
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
			return usagef("unexpected argument %q: the command to run goes behind --", args[0])
		}
		if len(args) > 0 && o.runFile != "" {
			return usagef("there are a command and --run-file %s: allowed: one of the two", o.runFile)
		}
		return nil
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	addFlag(flags, &o.components, "components", "dir", "where the component files are, or are to be written", parsePath)
	flags.VarP(&value[string]{target: &o.runFile, kind: "file", parse: parsePath}, "run-file", "f", "a run file of the Dapr CLI, such as dapr.yaml, with the apps to start")
	addFlag(flags, &o.id, "app-id", "id", "the app's id, and so its consumer group (default: the working directory's name)", parseText)
	addFlag(flags, &o.port, "app-port", "port", "where the app listens; none: it does not", parsePort)
	addFlag(flags, &o.protocol, "app-protocol", "protocol", "how the sidecar calls the app", oneOf("http", "grpc", "https", "grpcs", "h2c"))
	addFlag(flags, &o.healthPath, "app-health-check-path", "path", "where the app answers 200 while it is well; events wait while it does not; empty turns the check off", parseText)
	addFlag(flags, &o.httpPort, "dapr-http-port", "port", "the sidecar's HTTP port (default: a free one)", parsePort)
	addFlag(flags, &o.grpcPort, "dapr-grpc-port", "port", "the sidecar's gRPC port (default: a free one)", parsePort)
	addFlag(flags, &o.placement, "placement-host-address", "host:port", "Dapr's placement service, which actors and workflows need; none: there is none", parseText)
	addFlag(flags, &o.scheduler, "scheduler-host-address", "host:port", "Dapr's scheduler service, likewise", parseText)
	addFlag(flags, &o.runtimePath, "runtime-path", "dir", "the folder with .dapr/bin/daprd in it (default: $DAPR_RUNTIME_PATH or the home directory)", parsePath)
	c.processFlags(flags, &o.logLevel)
	return cmd
}

// dev serves, or uses the process that does already, and runs apps until they end or ctx does.
func (c *cli) dev(ctx context.Context, o *appOptions) error {
	info, running, err := c.runningProcess(ctx)
	if err != nil {
		return err
	}
	if running {
		c.name, c.socketDir = strings.TrimSuffix(filepath.Base(info.Socket), filepath.Ext(info.Socket)), filepath.Dir(info.Socket)
	}
	o.socketDir = c.socketDir
	run, folders, err := o.prepare(c.lookupEnv)
	if err != nil {
		return err
	}
	files, err := c.ensureComponents(folders)
	if err != nil {
		return err
	}
	work := func(ctx context.Context) error { return c.work(ctx, run) }
	if running {
		fmt.Fprintf(c.out, "dapr-bolt runs already, as process %d: it is used, and must go on\n", info.PID)
		return work(ctx)
	}
	c.logLevel, c.resubscribe = o.logLevel, files
	return c.serve(ctx, work)
}

// work is what `dapr-bolt dev` does while a process serves. run nil: there is no app to run.
func (c *cli) work(ctx context.Context, run *daprRun) error {
	fmt.Fprintf(c.out, `dapr-bolt serves state.%s and pubsub.%s; what they keep is in %s
  dapr-bolt topics --watch        shows what each app is owed
  dapr-bolt dead-letters list     shows the events that could not be handled, and why
  dapr-bolt console               prints the link to both in the browser
`, c.name, c.name, c.dataDir)
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() { c.reportFailures(ctx) })
	if run == nil {
		fmt.Fprintln(c.out, "start each app in a terminal of its own: dapr-bolt dev --app-id ID --app-port PORT -- COMMAND")
		<-ctx.Done()
		return nil
	}
	if run.healthURL != "" {
		helpers.Go(func() { c.reportHealth(ctx, run.healthURL) })
	}
	return run.until(ctx, c.out, c.errOut)
}

// runningProcess reports whether a process serves the data directory, and what it says of itself.
func (c *cli) runningProcess(ctx context.Context) (info admin.Info, running bool, err error) {
	info, err = admin.CallInfo.Ask(ctx, c.client, admin.Empty{})
	if _, ok := errors.AsType[*admin.NotRunningError](err); ok {
		return info, false, nil
	}
	if err == nil && info.Socket == "" {
		err = fmt.Errorf("process %d on %s is starting or stopping: try again", info.PID, c.dataDir)
	}
	return info, err == nil, err
}

func parseText(text string) (string, error) { return text, nil }
