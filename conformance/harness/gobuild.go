package harness

import (
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
	Progress io.Writer
}

// goBuild runs `go build`.
func goBuild(ctx context.Context, opts goBuildOptions) error {
	return inOneStep(opts.Output, func(built string) error {
		var said buildOutput
		meter := newMeter("building "+opts.What, opts.Note, opts.Progress, said.state)
		args := append([]string{"build", "-v", "-o", built}, opts.Flags...)
		cmd := exec.CommandContext(ctx, "go", append(args, opts.Package)...)
		cmd.Dir = opts.Dir
		// An own process group: Ctrl-C then reaches the build through ctx alone, and
		// the signal reaches the compilers that the go command started.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		cmd.Env = append(os.Environ(), opts.Env...)
		cmd.Stdout, cmd.Stderr = &said, &said
		err := cmd.Run()
		meter.stop(err)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("building %s: %w", opts.What, context.Cause(ctx))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("building %s: %w", opts.What, err), errors.New(said.tail()))
		}
		return nil
	})
}

// inOneStep has put make a file elsewhere and moves it to path, so that nobody ever starts half a program and a running one is
// not written over.
func inOneStep(path string, put func(path string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(path), ".making-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	made := filepath.Join(scratch, filepath.Base(path))
	if err := put(made); err != nil {
		return err
	}
	return os.Rename(made, path)
}

const keptLines = 40

// buildOutput takes what `go build -v` prints: names of packages, downloads, errors.
type buildOutput struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *buildOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// lines are what the build said so far. The last one is not complete.
func (o *buildOutput) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(o.text.String(), "\n")
}

// state is how far the build is.
func (o *buildOutput) state() string {
	lines := o.lines()
	whole := lines[:len(lines)-1]
	packages := 0
	for _, line := range whole {
		if !strings.HasPrefix(line, "go: ") {
			packages++
		}
	}
	if len(whole) == 0 {
		return ""
	}
	return fmt.Sprintf("%d packages, %s", packages, whole[len(whole)-1])
}

// tail is the end of what the build said.
func (o *buildOutput) tail() string {
	lines := o.lines()
	return strings.Join(lines[max(0, len(lines)-keptLines-1):], "\n")
}
