package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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

// CopyComponents copies component files as they are into a folder of their own, which
// it makes.
func CopyComponents(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// TodoPorts are where the processes listen on 127.0.0.1; 0 stands for a free port.
type TodoPorts struct {
	API, Scheduler int
	// Bolt and SchedulerBolt serve health and metrics; there is a second dapr-bolt with TodoOptions.Pods alone.
	Bolt, SchedulerBolt            int
	APISidecarHTTP, APISidecarGRPC int
	SchedulerSidecarHTTP           int
	SchedulerSidecarGRPC           int
}

// TodoOptions say what the todo app is made of. Programs and Components are required.
type TodoOptions struct {
	Programs Programs
	// Components is the folder with the component files. dapr-bolt changes the one of
	// the pub/sub after a restart, so that the sidecars subscribe again.
	Components string
	// Pods gives each service a dapr-bolt of its own, with its own data, sockets and copy of the component files, as in two
	// Pods. They share state and events if the components name servers.
	Pods bool
	// Ports are free ones by default.
	Ports TodoPorts
	// SchedulerArgs are added to the command line of `todo scheduler`.
	SchedulerArgs []string
	// SidecarArgs are added to the command line of each sidecar.
	SidecarArgs []string
	// QuietSidecars keeps what the sidecars print out of the harness's output; it is
	// in their log files.
	QuietSidecars bool
}

// Todo is the todo app: two services, a Dapr sidecar for each of them, and one dapr-bolt, or one for each. The harness that
// it was started in stops it.
type Todo struct {
	// Bolt serves the api's sidecar, SchedulerBolt the scheduler's; it is the same one without TodoOptions.Pods.
	Bolt, SchedulerBolt          *Bolt
	API, Scheduler               *App
	APISidecar, SchedulerSidecar *Daprd
}

// StartTodo starts the todo app and waits until all of it is healthy.
func (h *Harness) StartTodo(ctx context.Context, opts TodoOptions) (*Todo, error) {
	if err := opts.Ports.Check(); err != nil {
		return nil, err
	}
	if err := opts.Ports.fill(h); err != nil {
		return nil, err
	}
	var s Todo
	ports := opts.Ports
	services := []*todoService{
		{
			command: "api", appID: APIAppID, port: ports.API, boltPort: ports.Bolt,
			sidecarHTTP: ports.APISidecarHTTP, sidecarGRPC: ports.APISidecarGRPC,
			app: &s.API, sidecar: &s.APISidecar, bolt: &s.Bolt,
		},
		{
			command: "scheduler", appID: SchedulerAppID, port: ports.Scheduler, boltPort: ports.SchedulerBolt, args: opts.SchedulerArgs,
			sidecarHTTP: ports.SchedulerSidecarHTTP, sidecarGRPC: ports.SchedulerSidecarGRPC,
			app: &s.Scheduler, sidecar: &s.SchedulerSidecar, bolt: &s.SchedulerBolt,
		},
	}
	for i, service := range services {
		if i > 0 && !opts.Pods {
			*service.bolt = s.Bolt
		} else if err := service.startBolt(ctx, h, opts); err != nil {
			return nil, err
		}
		if err := service.startSidecar(h, opts); err != nil {
			return nil, err
		}
	}
	for _, service := range services {
		if err := service.startApp(ctx, h, opts.Programs.Todo); err != nil {
			return nil, err
		}
	}
	return &s, WaitReady(ctx, s.API, s.Scheduler, s.APISidecar, s.SchedulerSidecar)
}

// todoService is an app and its sidecar, which end up where the pointers say.
type todoService struct {
	command, appID           string
	port, boltPort           int
	args                     []string
	sidecarHTTP, sidecarGRPC int
	app                      **App
	sidecar                  **Daprd
	bolt                     **Bolt
}

// startBolt starts the service's dapr-bolt: with TodoOptions.Pods, on folders of its own.
func (s *todoService) startBolt(ctx context.Context, h *Harness, opts TodoOptions) (err error) {
	bolt := BoltOptions{
		Path:     opts.Programs.Bolt,
		HTTPPort: s.boltPort,
		Args:     []string{"--resubscribe", filepath.Join(s.components(h, opts), PubSubComponent+".yaml")},
	}
	if opts.Pods {
		bolt.Name = s.appID + "-bolt"
		bolt.DataDir = h.Dir(bolt.Name)
		bolt.SocketDir = filepath.Join(h.SocketDir(), s.appID)
		if err := CopyComponents(opts.Components, s.components(h, opts)); err != nil {
			return err
		}
	}
	*s.bolt, err = h.StartBolt(ctx, bolt)
	return err
}

// components is the folder with the service's component files.
func (s *todoService) components(h *Harness, opts TodoOptions) string {
	if opts.Pods {
		return h.Dir(s.appID + "-components")
	}
	return opts.Components
}

func (s *todoService) startSidecar(h *Harness, opts TodoOptions) (err error) {
	*s.sidecar, err = h.StartDaprd(DaprdOptions{
		Path:      opts.Programs.Daprd,
		AppID:     s.appID,
		AppPort:   s.port,
		Resources: []string{s.components(h, opts)},
		SocketDir: (*s.bolt).SocketDir,
		HTTPPort:  s.sidecarHTTP,
		GRPCPort:  s.sidecarGRPC,
		Args:      opts.SidecarArgs,
		Quiet:     opts.QuietSidecars,
	})
	return err
}

func (s *todoService) startApp(ctx context.Context, h *Harness, program string) error {
	if err := (*s.sidecar).WaitCallable(ctx); err != nil {
		return err
	}
	var err error
	*s.app, err = h.StartApp(AppOptions{
		Name: s.appID,
		Path: program,
		Args: append([]string{s.command, "--port", strconv.Itoa(s.port)}, s.args...),
		Port: s.port,
		// What `dapr run` tells an app about its sidecar.
		Env: []string{
			"DAPR_HTTP_PORT=" + strconv.Itoa(s.sidecarHTTP),
			"DAPR_GRPC_PORT=" + strconv.Itoa(s.sidecarGRPC),
		},
	})
	return err
}

// Check names every port that somebody else listens on.
func (p TodoPorts) Check() error {
	var errs []error
	for _, port := range p.all() {
		if *port.number == 0 {
			continue
		}
		if err := CheckPort(*port.number); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", port.use, err))
		}
	}
	return errors.Join(errs...)
}

// fill puts free ports where none are named.
func (p *TodoPorts) fill(h *Harness) (err error) {
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

func (p *TodoPorts) all() []namedPort {
	return []namedPort{
		{&p.API, "todo api"},
		{&p.Scheduler, "todo scheduler"},
		{&p.Bolt, "dapr-bolt's health and metrics"},
		{&p.SchedulerBolt, "health and metrics of the second dapr-bolt"},
		{&p.APISidecarHTTP, "HTTP of the todo api's sidecar"},
		{&p.APISidecarGRPC, "gRPC of the todo api's sidecar"},
		{&p.SchedulerSidecarHTTP, "HTTP of the todo scheduler's sidecar"},
		{&p.SchedulerSidecarGRPC, "gRPC of the todo scheduler's sidecar"},
	}
}
