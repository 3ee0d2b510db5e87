package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

type goBuildOptions struct {
	What     string // as told to the user
	Note     string // see meter; may be empty
	Dir      string // in the module that builds Package
	Package  string
	Output   string
	Flags    []string
	Env      []string
	Progress io.Writer // may be nil
}

// goBuild runs `go build` and puts the binary at Output in one step, so that
// nobody ever starts half a file and a running binary is not written over.
func goBuild(ctx context.Context, opts goBuildOptions) error {
	if err := os.MkdirAll(filepath.Dir(opts.Output), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(opts.Output), ".building-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	built := filepath.Join(scratch, filepath.Base(opts.Output))

	output := &buildOutput{}
	meter := newMeter("building "+opts.What, opts.Note, opts.Progress, output.state)
	args := append([]string{"build", "-v", "-o", built}, opts.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, opts.Package)...)
	cmd.Dir = opts.Dir
	// An own process group: Ctrl-C then reaches the build through ctx alone, and
	// the signal reaches the compilers that the go command started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), opts.Env...)
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Run()
	meter.stop(err)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("building %s: %w", opts.What, context.Cause(ctx))
		}
		return errors.Join(fmt.Errorf("building %s: %w", opts.What, err), errors.New(output.tail()))
	}
	return os.Rename(built, opts.Output)
}

const keptLines = 40

// buildOutput takes what `go build -v` prints: names of packages, downloads, errors.
type buildOutput struct {
	mu       sync.Mutex
	partial  []byte
	lines    []string // the last keptLines, for the error message
	packages int
}

func (o *buildOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partial = eachLine(append(o.partial, p...), func(line []byte) {
		if !bytes.HasPrefix(line, []byte("go: ")) {
			o.packages++
		}
		o.lines = append(o.lines, string(line))
		if len(o.lines) > keptLines {
			o.lines = o.lines[1:]
		}
	})
	return len(p), nil
}

// state is how far the build is.
func (o *buildOutput) state() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) == 0 {
		return ""
	}
	return fmt.Sprintf("%d packages, %s", o.packages, o.lines[len(o.lines)-1])
}

// tail is the end of what the build said.
func (o *buildOutput) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(append(o.lines, string(o.partial)), "\n")
}
