// Package stack puts the todo app together: one dapr-bolt, two services, and a real
// Dapr sidecar for each of them.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The app ids, which are also the consumer groups.
const (
	APIAppID       = "todo-api"
	SchedulerAppID = "todo-scheduler"
)

// The components that both sidecars load.
const (
	StoreComponent  = "todo-store"
	PubSubComponent = "todo-pubsub"
)

// Programs are the binaries that a stack is made of.
type Programs struct {
	Bolt, Todo, Daprd string
}

// BuildPrograms builds what is not built yet, and tells progress about it. The
// first time takes minutes.
func BuildPrograms(ctx context.Context, checkout build.Checkout, progress io.Writer) (Programs, error) {
	var programs Programs
	var err error
	if programs.Bolt, err = checkout.Command(ctx, "dapr-bolt", progress); err != nil {
		return Programs{}, err
	}
	if programs.Todo, err = checkout.Command(ctx, "todo", progress); err != nil {
		return Programs{}, err
	}
	programs.Daprd, err = checkout.Daprd(ctx, progress)
	return programs, err
}

// CopyComponents copies component files as they are into a folder of their own, which
// it makes.
func CopyComponents(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// Ports are where the processes listen on 127.0.0.1; 0 stands for a free port.
type Ports struct {
	API, Scheduler                 int
	Bolt                           int // health and metrics
	APISidecarHTTP, APISidecarGRPC int
	SchedulerSidecarHTTP           int
	SchedulerSidecarGRPC           int
}

// Options say what a stack is made of. Programs and Components are required.
type Options struct {
	Programs Programs
	// Components is the folder with the component files. dapr-bolt changes the one of
	// the pub/sub after a restart, so that the sidecars subscribe again.
	Components string
	// Ports are free ones by default.
	Ports Ports
	// SchedulerArgs are added to the command line of `todo scheduler`.
	SchedulerArgs []string
	// QuietSidecars keeps what the sidecars print out of the harness's output; it is
	// in their log files.
	QuietSidecars bool
}

// Stack is the running whole. The harness that it was started in stops it.
type Stack struct {
	Bolt                         *harness.Bolt
	API, Scheduler               *harness.App
	APISidecar, SchedulerSidecar *harness.Daprd
}

// Start starts everything and waits until all of it is healthy.
func Start(ctx context.Context, h *harness.Harness, opts Options) (*Stack, error) {
	if err := opts.Ports.Check(); err != nil {
		return nil, err
	}
	if err := opts.Ports.fill(h); err != nil {
		return nil, err
	}
	var s Stack
	var err error
	s.Bolt, err = h.StartBolt(ctx, harness.BoltOptions{
		Path:     opts.Programs.Bolt,
		HTTPPort: opts.Ports.Bolt,
		Args:     []string{"--resubscribe", filepath.Join(opts.Components, PubSubComponent+".yaml")},
	})
	if err != nil {
		return nil, err
	}
	ports := opts.Ports
	services := []*service{
		{
			command: "api", appID: APIAppID, port: ports.API,
			sidecarHTTP: ports.APISidecarHTTP, sidecarGRPC: ports.APISidecarGRPC,
			app: &s.API, sidecar: &s.APISidecar,
		},
		{
			command: "scheduler", appID: SchedulerAppID, port: ports.Scheduler, args: opts.SchedulerArgs,
			sidecarHTTP: ports.SchedulerSidecarHTTP, sidecarGRPC: ports.SchedulerSidecarGRPC,
			app: &s.Scheduler, sidecar: &s.SchedulerSidecar,
		},
	}
	for _, service := range services {
		if err := service.startSidecar(h, opts); err != nil {
			return nil, err
		}
	}
	for _, service := range services {
		if err := service.startApp(ctx, h, opts.Programs.Todo); err != nil {
			return nil, err
		}
	}
	return &s, harness.WaitReady(ctx, s.API, s.Scheduler, s.APISidecar, s.SchedulerSidecar)
}

// service is an app and its sidecar, which end up where the pointers say.
type service struct {
	command, appID           string
	port                     int
	args                     []string
	sidecarHTTP, sidecarGRPC int
	app                      **harness.App
	sidecar                  **harness.Daprd
}

func (s *service) startSidecar(h *harness.Harness, opts Options) (err error) {
	*s.sidecar, err = h.StartDaprd(harness.DaprdOptions{
		Path:      opts.Programs.Daprd,
		AppID:     s.appID,
		AppPort:   s.port,
		Resources: []string{opts.Components},
		HTTPPort:  s.sidecarHTTP,
		GRPCPort:  s.sidecarGRPC,
		Quiet:     opts.QuietSidecars,
	})
	return err
}

func (s *service) startApp(ctx context.Context, h *harness.Harness, program string) error {
	if err := (*s.sidecar).WaitCallable(ctx); err != nil {
		return err
	}
	var err error
	*s.app, err = h.StartApp(harness.AppOptions{
		Name: s.appID,
		Path: program,
		Args: append([]string{s.command, "--port", strconv.Itoa(s.port)}, s.args...),
		Port: s.port,
		// That is when it has reached its sidecar as well.
		ReadyPath: "/readyz",
		// What `dapr run` tells an app about its sidecar.
		Env: []string{
			"DAPR_HTTP_PORT=" + strconv.Itoa(s.sidecarHTTP),
			"DAPR_GRPC_PORT=" + strconv.Itoa(s.sidecarGRPC),
		},
	})
	return err
}

// Check names every port that somebody else listens on.
func (p Ports) Check() error {
	var errs []error
	for _, port := range p.all() {
		if *port.number == 0 {
			continue
		}
		if err := harness.CheckPort(*port.number); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", port.use, err))
		}
	}
	return errors.Join(errs...)
}

// fill puts free ports where none are named.
func (p *Ports) fill(h *harness.Harness) (err error) {
	for _, port := range p.all() {
		if *port.number == 0 {
			if *port.number, err = h.FreePort(); err != nil {
				return err
			}
		}
	}
	return nil
}

type namedPort struct {
	number *int
	use    string
}

func (p *Ports) all() []namedPort {
	return []namedPort{
		{&p.API, "todo api"},
		{&p.Scheduler, "todo scheduler"},
		{&p.Bolt, "dapr-bolt's health and metrics"},
		{&p.APISidecarHTTP, "HTTP of the todo api's sidecar"},
		{&p.APISidecarGRPC, "gRPC of the todo api's sidecar"},
		{&p.SchedulerSidecarHTTP, "HTTP of the todo scheduler's sidecar"},
		{&p.SchedulerSidecarGRPC, "gRPC of the todo scheduler's sidecar"},
	}
}
