// Package harness is the environment of the conformance tests, the demo and `make run`.
//
// A [Checkout] makes the programs: dapr-bolt, the todo app, the pinned Dapr sidecar, its placement and scheduler. They are
// kept in the checkout's .cache folder. A [Harness] runs them as processes of this machine, on ports of their own, and
// stops every one of them again; [Harness.StartBolt], [Harness.StartDaprd], [Harness.StartApp] and [Harness.StartServer]
// start one, [Harness.StartTodo] the whole todo app. A [Client] speaks with dapr-bolt's socket as a sidecar does.
// Tests begin with [ForTest], [StartBolt] or [Start], which end with the test.
package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Options say where a Harness works.
type Options struct {
	// Dir holds data, logs and generated files, and outlives the harness. Default:
	// a temporary folder that Close removes, unless Keep was called.
	Dir string
	// Output receives what every process prints, each line after the process's
	// name. Default: nothing is shown; the log files have it either way.
	Output io.Writer
}

// Harness owns a set of processes. Its methods may be called from any goroutine.
type Harness struct {
	dir     string
	scratch string // always temporary: its short path leaves room for sockets
	output  io.Writer

	showing   sync.Mutex
	mu        sync.Mutex
	processes []*Process
	networks  []*Network
	ports     []*os.File // their locks
	keep      bool
}

// New makes a harness with no processes. The caller must Close it.
func New(opts Options) (*Harness, error) {
	scratch, err := os.MkdirTemp(shortTempDir(), "dapr-bolt-")
	if err != nil {
		return nil, err
	}
	h := &Harness{dir: opts.Dir, scratch: scratch, output: opts.Output}
	if h.dir == "" {
		h.dir = scratch
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "logs"), 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	return h, nil
}

// shortTempDir is the system's temporary folder, or /tmp where that is so deep
// (macOS) that socket paths in it would pass the 104 bytes that a socket may have.
func shortTempDir() string {
	const longest = 40
	if dir := os.TempDir(); len(dir) <= longest {
		return dir
	}
	return "/tmp"
}

// Dir joins the elements to the folder that holds data and logs.
func (h *Harness) Dir(elements ...string) string {
	return filepath.Join(append([]string{h.dir}, elements...)...)
}

// SocketDir is the folder in which components and sidecars of this harness meet.
func (h *Harness) SocketDir() string { return filepath.Join(h.scratch, "sockets") }

// nameWidth aligns the lines of the processes that `make run` starts.
const nameWidth = 20

// show lets several processes share the output without mixing their lines.
func (h *Harness) show(name string, line []byte) {
	h.showing.Lock()
	defer h.showing.Unlock()
	// A terminal that went away must not end the process that prints to it.
	_, _ = fmt.Fprintf(h.output, "%-*s | %s\n", nameWidth, name, line)
}

// Keep makes Close leave the temporary folder in place, for somebody to look into.
func (h *Harness) Keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keep = true
}

// Close stops what still runs: sidecars first, then apps, then components, those
// of one kind together, with the errors of those that did not end by themselves with
// status 0. Then it kills the servers, whose data nobody looks at afterwards. It
// returns once every process is gone.
func (h *Harness) Close() error {
	h.mu.Lock()
	processes, networks, ports, keep := h.processes, h.networks, h.ports, h.keep
	h.processes, h.networks, h.ports = nil, nil, nil
	h.mu.Unlock()

	var errs []error
	for _, k := range []kind{kindSidecar, kindApp, kindComponent, kindServer} {
		var stops []func() error
		for _, p := range processes {
			switch {
			case p.kind != k:
			case k == kindServer:
				stops = append(stops, func() error { p.Kill(); return nil })
			default:
				stops = append(stops, p.Stop)
			}
		}
		errs = append(errs, together(stops...))
	}
	for _, n := range networks {
		errs = append(errs, n.close())
	}
	for _, lock := range ports {
		errs = append(errs, lock.Close())
	}
	if !keep {
		errs = append(errs, os.RemoveAll(h.scratch))
	}
	return errors.Join(errs...)
}

type waiter interface {
	WaitReady(ctx context.Context) error
}

// WaitReady waits until all of them are ready; see Process.WaitReady.
func WaitReady(ctx context.Context, processes ...waiter) error { return waitAll(ctx, processes) }

func waitAll[W waiter](ctx context.Context, all []W) error {
	var waits []func() error
	for _, p := range all {
		waits = append(waits, func() error { return p.WaitReady(ctx) })
	}
	return together(waits...)
}

// together runs the functions at the same time and waits for all of them.
func together(functions ...func() error) error {
	errs := make([]error, len(functions))
	var group sync.WaitGroup
	for i, f := range functions {
		group.Go(func() { errs[i] = f() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Watch blocks until ctx ends, then returns nil, or until a process ends that
// nobody stopped, then says which and shows the end of its log.
func (h *Harness) Watch(ctx context.Context) error {
	h.mu.Lock()
	processes := slices.Clone(h.processes)
	h.mu.Unlock()

	watching, end := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer end(nil)
	for _, p := range processes {
		r := p.newest()
		group.Go(func() {
			select {
			case <-r.done:
				end(fmt.Errorf("%s ended by itself: %w", p.Name(), p.describe(r)))
			case <-watching.Done():
			}
		})
	}
	<-watching.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(watching)
}
