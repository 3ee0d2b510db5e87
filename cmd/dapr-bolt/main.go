// Command dapr-bolt serves the Dapr components state.bolt and pubsub.bolt from one embedded file, and looks into a
// running process of itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/jonboulle/clockwork"
	"golang.org/x/term"
)

// The exit codes.
const (
	exitOK = iota
	exitFailure
	exitUsage
)

// How garbage is collected unless GOGC says; GOMEMLIMIT counts either way. With Go's own GOGC=100, a process that keeps next to
// nothing in memory is collected after every few hundred calls and takes half as much CPU again for each; GOGC=400 is as
// quick, but takes five times what is in use where that is much. So what is in use may grow by half, and a ballast that
// nobody writes to, and behind which there is no memory, counts as in use.
const (
	gcPercent = 50
	gcBallast = 48 << 20
)

// terminationSignals ask for a clean stop; a second one asks for an end at once.
var terminationSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// environment is what the commands know of the world.
type environment struct {
	in          io.Reader
	out, errOut io.Writer
	// interactive says that a person sits at in.
	interactive bool
	// width is how many characters a line of out may have; 0: any number, as it is no terminal.
	width     func() int
	lookupEnv func(name string) (string, bool)
	clock     clockwork.Clock
}

func main() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
		defer runtime.KeepAlive(make([]byte, gcBallast))
	}
	ctx, stop := signal.NotifyContext(context.Background(), terminationSignals...)
	code := run(ctx, &environment{
		in:          os.Stdin,
		out:         os.Stdout,
		errOut:      os.Stderr,
		interactive: term.IsTerminal(int(os.Stdin.Fd())),
		width:       terminalWidth,
		lookupEnv:   os.LookupEnv,
		clock:       clockwork.NewRealClock(),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}

func terminalWidth() int {
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// run executes one command line and returns the exit code. What goes wrong is said here, and nowhere else.
func run(ctx context.Context, env *environment, args []string) int {
	root := newRoot(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var usage *usageError
	var logged *loggedError
	if !errors.As(err, &logged) {
		fmt.Fprintln(env.errOut, "dapr-bolt:", err)
	}
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// loggedError is an error that the log says already.
type loggedError struct{ err error }

func (e *loggedError) Error() string { return e.err.Error() }
func (e *loggedError) Unwrap() error { return e.err }
