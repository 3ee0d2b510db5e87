package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
)

// asProgram makes the test binary behave as dapr-bolt itself.
const asProgram = "DAPR_BOLT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	if err := os.Setenv(asProgram, "1"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a process may take for what takes it milliseconds.
const patience = 5 * time.Minute

// shortDir is for sockets, whose paths have a limit that test directories come close to.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bolt")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// folders are what a process works in.
type folders struct{ data, sockets string }

func newFolders(t *testing.T) folders {
	t.Helper()
	dir := shortDir(t)
	return folders{data: filepath.Join(dir, "data"), sockets: filepath.Join(dir, "sockets")}
}

func (f folders) adminSocket() string     { return filepath.Join(f.data, admin.SocketName) }
func (f folders) componentSocket() string { return filepath.Join(f.sockets, "bolt.sock") }

// program is a running dapr-bolt.
type program struct {
	folders
	cmd    *exec.Cmd
	stderr logtest.Buffer
	waited chan struct{}
}

// launch starts dapr-bolt and does not wait for it.
func launch(t *testing.T, f folders, args ...string) *program {
	t.Helper()
	p := &program{folders: f, waited: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], append([]string{"--data-dir", f.data, "--socket-dir", f.sockets, "--http-listen="}, args...)...)
	p.cmd.Stderr = &p.stderr
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.waited)
		_ = p.cmd.Wait() // the exit code is what counts
	}()
	t.Cleanup(func() {
		select {
		case <-p.waited:
		default:
			_ = p.cmd.Process.Kill()
			<-p.waited
		}
		if t.Failed() {
			t.Log(p.stderr.String())
		}
	})
	return p
}

// start starts dapr-bolt and waits until it is ready.
func start(t *testing.T, f folders, args ...string) *program {
	t.Helper()
	p := launch(t, f, args...)
	client := admin.NewClient(f.adminSocket())
	defer client.Close()
	require.Eventually(t, func() bool {
		select {
		case <-p.waited:
			return true
		default:
			_, err := admin.CallReady.Ask(t.Context(), client, admin.Empty{})
			return err == nil
		}
	}, patience, 5*time.Millisecond)
	select {
	case <-p.waited:
		require.Fail(t, "it ended", p.stderr.String())
	default:
	}
	return p
}

func (p *program) signal(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

func (p *program) exitCode(t *testing.T) int {
	t.Helper()
	select {
	case <-p.waited:
	case <-time.After(patience):
		require.Fail(t, "it does not end", p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	require.Equal(t, exitOK, p.exitCode(t), p.stderr.String())
}

// result is what a command line came to.
type result struct {
	code           int
	stdout, stderr string
}

// shell is what a command line finds around it; the zero value has no terminal, no environment and the real clock.
type shell struct {
	typed string
	env   map[string]string
	clock clockwork.Clock
	// width is the terminal's; 0: the output is none.
	width int
	// ctx default: one that never ends.
	ctx context.Context
}

func (w shell) run(t *testing.T, args ...string) result {
	t.Helper()
	if w.clock == nil {
		w.clock = clockwork.NewRealClock()
	}
	var stdout, stderr bytes.Buffer
	if w.ctx == nil {
		w.ctx = context.Background()
	}
	code := run(w.ctx, &environment{
		in:          strings.NewReader(w.typed),
		out:         &stdout,
		errOut:      &stderr,
		interactive: w.typed != "",
		width:       func() int { return w.width },
		lookupEnv:   func(name string) (string, bool) { v, ok := w.env[name]; return v, ok },
		clock:       w.clock,
	}, args)
	return result{code: code, stdout: stdout.String(), stderr: stderr.String()}
}
