package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

type goBuildOptions struct {
	What     string // as told to the user
	Note     string // told once, when the build turns out to take a while; may be empty
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

	meter := newMeter(opts.What, opts.Note, opts.Progress)
	args := append([]string{"build", "-v", "-o", built}, opts.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, opts.Package)...)
	cmd.Dir = opts.Dir
	// An own process group: Ctrl-C then reaches the build through ctx alone, and
	// the signal reaches the compilers that the go command started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), opts.Env...)
	cmd.Stdout, cmd.Stderr = meter, meter
	err = cmd.Run()
	meter.stop(err)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("building %s: %w", opts.What, context.Cause(ctx))
		}
		return errors.Join(fmt.Errorf("building %s: %w", opts.What, err), errors.New(meter.tail()))
	}
	return os.Rename(built, opts.Output)
}
