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
//   - A todo's id follows from the request's Idempotency-Key, and an event's id from its topic and its todo. The broker
//     stores an id once; after its dedupWindow the event is delivered again, and finds that its work is done.
//   - The write that creates a todo carries an idempotencyKey, and so does a handler's: its event's id. The store makes such
//     a write once, however often it is sent.
//
// The broker repeats a step that an event causes, until its handler succeeds. Whoever sent a request repeats it after an
// answer of 5xx or none. That is the limit: if the api dies between write and publish, and the client does not come back
// with its Idempotency-Key, the todo stays pending. Where that is not enough, a Dapr state store can publish on commit
// (outboxPublishPubsub).
//
// Two writers never undo each other's work: every write names the version that it replaces, by its ETag. A client that
// edits an outdated version is answered 409; a handler reads again.
//
// The files, from the outside in: main and server are what any app has, api and scheduler the services, todo and day
// their rules, event what they tell each other, sidecar the calls to Dapr. faults is for demonstrations alone.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
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
	var allowFaults bool
	scheduler := newServiceCommand("scheduler", "Book a slot for each new todo, or reject it", "8001", func(s *server, dapr *sidecar) {
		(&scheduler{dapr: dapr, log: s.log}).register(s, allowFaults)
	})
	scheduler.Flags().BoolVar(&allowFaults, "allow-faults", false, "for demonstrations: PUT /faults makes the handler fail for some todos")
	root.AddCommand(scheduler, newServiceCommand("api", "Keep todos and offer them over HTTP", "8000", func(s *server, dapr *sidecar) {
		(&api{dapr}).register(s)
	}))
	return root
}

// newServiceCommand returns the command that waits for the sidecar and serves what register registers, until it is
// interrupted.
func newServiceCommand(name, short, defaultPort string, register func(*server, *sidecar)) *cobra.Command {
	var host, port string
	var logJSON bool
	var sidecarTimeout, grace time.Duration
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	flags := cmd.Flags()
	flags.StringVar(&host, "host", "127.0.0.1", "address to listen on")
	flags.StringVar(&port, "port", cmp.Or(os.Getenv("APP_PORT"), defaultPort), "port to listen on, for callers and for the sidecar; dapr run sets APP_PORT")
	flags.BoolVar(&logJSON, "log-json", false, "log JSON lines")
	flags.DurationVar(&sidecarTimeout, "sidecar-timeout", time.Minute, "how long to wait for the sidecar at start")
	flags.DurationVar(&grace, "shutdown-timeout", 10*time.Second, "how long requests in flight may take when the service stops")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		var handler slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), nil)
		if logJSON {
			handler = slog.NewJSONHandler(cmd.ErrOrStderr(), nil)
		}
		log := slog.New(handler).With("app_id", "todo-"+name)

		// Before the wait: a port that is taken is an error at once, and the sidecar sees that its app is coming.
		address := net.JoinHostPort(host, port)
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
		defer listener.Close()
		log.Info("Waiting for the sidecar", "address", sidecarAddress(), "timeout", sidecarTimeout)
		dapr, err := connect(ctx, sidecarTimeout)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		defer dapr.Close()
		s := newServer(log)
		register(s, dapr)
		log.Info("Ready", "address", listener.Addr().String())
		err = s.serve(ctx, listener, grace)
		log.Info("Stopped")
		return err
	}
	return cmd
}
