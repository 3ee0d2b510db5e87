// Command todo is a todo app of two services on Dapr. It shows how little an app needs when its state store and its
// broker are dapr-bolt.
//
// "todo api" keeps todos and offers them over HTTP; "todo scheduler" books a slot for each new one. They talk by events
// alone:
//
//	api        task-created    →  scheduler  books a slot
//	scheduler  task-scheduled  →  api        the todo is scheduled
//	scheduler  task-rejected   →  api        the todo is rejected: the compensation
//	api        task-completed  →  scheduler  frees the slot
//	api        task-deleted    →  scheduler  frees the slot
//
// A step of this saga writes state and then publishes an event. There is no outbox: a step that died between the two is
// repeated, and two rules make a repetition harmless.
//
//   - What is made has an id that follows from what it is made for. A todo's id follows from the request's
//     Idempotency-Key, and an event's id from its topic and its todo. The broker stores an id once; after its dedupWindow
//     the event is delivered again, and finds that its work is done.
//   - The write that creates a todo carries an idempotencyKey, and so does a handler's: its event's id. The store makes such
//     a write once, however often it is sent.
//
// An event that a handler fails for is delivered again by the broker, so the steps that events cause need nobody's help. A
// step that a request causes is repeated by whoever sent the request, after an answer of 5xx or none: creating,
// completing and deleting publish their event each time. That is the limit: if the api dies between write and publish, and
// the client does not come back, or comes back without its Idempotency-Key, the todo stays pending. Where that is not
// enough, a Dapr state store can publish on commit (outboxPublishPubsub).
//
// Two writers never undo each other's work: every write names the version that it replaces, by its ETag. A client that
// edits an outdated version is answered 409; a handler reads again.
//
// The files, from the outside in: main and server are what any app has, api and scheduler the services, todo and day
// their rules, event what they tell each other, sidecar the calls to Dapr. demo is for watching alone.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "todo:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "todo",
		Short: "A todo app of two services on Dapr",
		Long: `todo is an app of two services, each next to its own Dapr sidecar: "todo api" keeps
todos and offers them over HTTP, "todo scheduler" books a slot for each new one.
The sidecar is looked for where DAPR_GRPC_ENDPOINT or DAPR_GRPC_PORT says.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newAPICommand(), newSchedulerCommand())
	return root
}

func newAPICommand() *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Keep todos and offer them over HTTP",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.ErrOrStderr(), "todo-api", func(s *server, dapr *sidecar, log *slog.Logger) {
				(&api{dapr: dapr, log: log}).register(s)
			})
		},
	}
	c.register(cmd.Flags(), "8000")
	return cmd
}

func newSchedulerCommand() *cobra.Command {
	var c config
	var slotsPerDay int
	var allowFaults bool
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Book a slot for each new todo, or reject it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if slotsPerDay < 1 || slotsPerDay > maxSlotsPerDay {
				return fmt.Errorf("slots-per-day is %d, want 1 to %d", slotsPerDay, maxSlotsPerDay)
			}
			return c.run(cmd.Context(), cmd.ErrOrStderr(), "todo-scheduler", func(s *server, dapr *sidecar, log *slog.Logger) {
				(&scheduler{dapr: dapr, log: log, slotsPerDay: slotsPerDay}).register(s, allowFaults)
			})
		},
	}
	flags := cmd.Flags()
	c.register(flags, "8001")
	flags.IntVar(&slotsPerDay, "slots-per-day", 8, fmt.Sprintf("todos that fit into a day, 1 to %d", maxSlotsPerDay))
	flags.BoolVar(&allowFaults, "allow-faults", false, "for demonstrations: PUT /faults makes the handler fail for some todos")
	return cmd
}

// config is what both services can be told.
type config struct {
	host, port     string
	logJSON        bool
	logLevel       slog.Level
	sidecarTimeout time.Duration
	grace          time.Duration
}

func (c *config) register(flags *pflag.FlagSet, port string) {
	flags.StringVar(&c.host, "host", "127.0.0.1", "address to listen on")
	flags.StringVar(&c.port, "port", cmp.Or(os.Getenv("APP_PORT"), port), "port to listen on, for callers and for the sidecar; dapr run sets APP_PORT")
	flags.BoolVar(&c.logJSON, "log-json", false, "log JSON lines")
	flags.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.DurationVar(&c.sidecarTimeout, "sidecar-timeout", time.Minute, "how long to wait for the sidecar at start")
	flags.DurationVar(&c.grace, "shutdown-timeout", 10*time.Second, "how long requests in flight may take when the service stops")
}

// run waits for the sidecar and serves until ctx ends.
func (c *config) run(ctx context.Context, logTo io.Writer, appID string, register func(*server, *sidecar, *slog.Logger)) error {
	options := &slog.HandlerOptions{Level: c.logLevel}
	var handler slog.Handler = slog.NewTextHandler(logTo, options)
	if c.logJSON {
		handler = slog.NewJSONHandler(logTo, options)
	}
	log := slog.New(handler).With("app_id", appID)

	// Before the wait: a port that is taken is an error at once, and the sidecar sees that its app is coming.
	address := net.JoinHostPort(c.host, c.port)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	defer listener.Close()
	log.Info("Waiting for the sidecar", "address", sidecarAddress(), "timeout", c.sidecarTimeout)
	dapr, err := connect(ctx, c.sidecarTimeout)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer dapr.Close()
	s := newServer(dapr.ready, log)
	register(s, dapr, log)
	log.Info("Ready", "address", listener.Addr().String())
	err = s.serve(ctx, listener, c.grace)
	log.Info("Stopped")
	return err
}
