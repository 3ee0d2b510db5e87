package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 5 * time.Minute // of a process that starts on a busy machine
	readyPoll    = 25 * time.Millisecond
	stopTimeout  = 2 * time.Minute // between SIGTERM and SIGKILL
	tailBytes    = 4 << 10
)

// kind orders the end of a harness: see Harness.Close.
type kind int

const (
	kindServer kind = iota
	kindComponent
	kindApp
	kindSidecar
)

// spec is what a process is started from, each time that it is started.
type spec struct {
	Name string
	Path string
	Args []string
	Env  []string // beside the inherited variables, Dapr's own ones left out
	// Quiet keeps the output in the log file alone.
	Quiet bool
	// Ready returns nil once the process does its work.
	Ready func(context.Context) error
	// Credential is the user to run it as; nil: our own.
	Credential *syscall.Credential
	// OwnPIDs gives it a PID namespace of its own.
	OwnPIDs bool
}

// Process is a program that can be started, stopped, killed and started again.
type Process struct {
	spec    spec
	kind    kind
	logPath string
	show    func(line []byte) // nil: what it prints is not shown

	mu      sync.Mutex
	current *run // the newest run, also after its end; nil before the first
}

// run is one life of a process.
type run struct {
	process *os.Process
	done    chan struct{} // closed once the process is gone and err is set
	err     error
	// excused: its way of ending was asked for with Kill, or has been returned as an
	// error already, so that Stop has nothing to add. Guarded by Process.mu.
	excused bool
}

func (h *Harness) start(k kind, s spec) (*Process, error) {
	p := &Process{spec: s, kind: k, logPath: h.Dir("logs", s.Name+".log")}
	if !s.Quiet && h.output != nil {
		p.show = func(line []byte) { h.show(s.Name, line) }
	}
	// A log tells of one harness; a folder that outlives it holds that of the last.
	if err := os.Remove(p.logPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.processes = append(h.processes, p)
	h.mu.Unlock()
	return p, nil
}

// Name is the process's name in logs.
func (p *Process) Name() string { return p.spec.Name }

// Path is the program's file.
func (p *Process) Path() string { return p.spec.Path }

// LogPath is the file that collects what the process prints, over all its runs.
func (p *Process) LogPath() string { return p.logPath }

// PID is the id of the newest run.
func (p *Process) PID() int { return p.newest().process.Pid }

// Done is closed once the newest run is over.
func (p *Process) Done() <-chan struct{} { return p.newest().done }

func (p *Process) newest() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// Start starts the process with the command line of its first start. It is an
// error while the last run lives. It does not wait: see WaitReady.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		select {
		case <-p.current.done:
		default:
			return fmt.Errorf("%s is already running as process %d", p.spec.Name, p.current.process.Pid)
		}
	}
	log, err := os.OpenFile(p.logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Env = append(append(inheritedEnvironment(), "GORACE="+RaceOptions), p.spec.Env...)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = ownProcessGroup(p.spec.OwnPIDs)
	cmd.SysProcAttr.Credential = p.spec.Credential
	shown := &lineWriter{take: p.show}
	cmd.Stdout, cmd.Stderr = log, log
	if p.show != nil {
		cmd.Stdout = io.MultiWriter(log, shown)
		cmd.Stderr = cmd.Stdout
	}

	r := &run{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux sends the death signal when the *thread* that started the child
		// ends, so that thread must stay with the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			r.process = cmd.Process
		}
		started <- err
		if err == nil {
			r.err = cmd.Wait()
		}
		shown.flush()
		_ = log.Close()
		close(r.done)
	}()
	if err := <-started; err != nil {
		<-r.done
		return fmt.Errorf("starting %s: %w", p.spec.Name, err)
	}
	p.current = r
	return nil
}

// inheritedEnvironment is ours without what would change how Dapr or dapr-bolt run.
func inheritedEnvironment() []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "DAPR_") && !strings.HasPrefix(name, "APP_") {
			env = append(env, entry)
		}
	}
	return env
}

// WaitReady waits until the process does its work, polling the real thing. It
// fails, with the end of the log, when the process ends, when ctx ends, and after
// five minutes.
func (p *Process) WaitReady(ctx context.Context) error { return p.wait(ctx, p.spec.Ready) }

func (p *Process) wait(ctx context.Context, probe func(context.Context) error) error {
	r := p.newest()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("%s ended while starting: %w", p.spec.Name, p.describe(r))
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready (%w): %w%s", p.spec.Name, context.Cause(ctx), err, p.quoteLog())
		case <-poll.C:
		}
	}
}

// Stop asks the process to end (SIGTERM), kills it after two minutes, and waits
// until it is gone. The error says how it ended, unless that was with status 0, by
// Kill, or returned before. It may be called again.
func (p *Process) Stop() error {
	r := p.signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed%s", p.spec.Name, stopTimeout, p.quoteLog())
	}
	if r.err == nil || !p.excuse(r) {
		return nil
	}
	return fmt.Errorf("stopping %s: %w", p.spec.Name, p.describe(r))
}

// Kill ends the process with SIGKILL, as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	r := p.signal(syscall.SIGKILL)
	p.excuse(r)
	<-r.done
}

// Pause stops the process where it stands (SIGSTOP), as a machine that hangs would. Its connections stay open.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(signal os.Signal) *run {
	r := p.newest()
	// An error says that the process is gone already, which is what was asked for.
	_ = r.process.Signal(signal)
	return r
}

// excuse reports whether it is the first to ask that of r.
func (p *Process) excuse(r *run) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first = !r.excused
	r.excused = true
	return first
}

// describe is how r ended, as an error, with the end of the log.
func (p *Process) describe(r *run) error {
	<-r.done
	p.excuse(r)
	status := "exit status 0"
	if r.err != nil {
		status = r.err.Error()
	}
	return errors.New(status + p.quoteLog())
}

// quoteLog is the end of the log, as an appendix to an error.
func (p *Process) quoteLog() string {
	return fmt.Sprintf("\n--- the end of %s\n%s---", p.logPath, p.LogTail())
}

// LogTail returns the last lines of the log, at most 4 KiB.
func (p *Process) LogTail() string {
	file, err := os.Open(filepath.Clean(p.logPath))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = file.Seek(-tailBytes, io.SeekEnd)
	}
	tail, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	if _, rest, found := strings.Cut(string(tail), "\n"); found && len(tail) == tailBytes {
		return rest
	}
	return string(tail)
}
