package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// ServicePorts are where a service, its dapr-bolt and its sidecar listen on 127.0.0.1; 0 stands for a free port.
type ServicePorts struct{ App, Bolt, SidecarHTTP, SidecarGRPC int }

// TodoOptions say how the todo app is run.
type TodoOptions struct {
	API, Scheduler ServicePorts
	// Cluster starts three servers of each kind for state and events, and gives each service a dapr-bolt of its own, with its
	// own data, sockets and component files, as in two Pods. Default: one dapr-bolt keeps them in a file.
	Cluster bool
	// PubSub are settings of the pub/sub in place of what its component file says, in pairs of key and value.
	PubSub []string
	// SchedulerArgs are added to the command line of `todo scheduler`.
	SchedulerArgs []string
	// QuietSidecars keeps what the sidecars print out of the harness's output; it is in their log files.
	QuietSidecars bool
}

// Todo is the todo app. The harness that it was started in stops it.
type Todo struct {
	API, Scheduler Service
	// Servers keep state and events; nil without TodoOptions.Cluster.
	Servers *Servers
}

// Service is one of its two apps, and what it runs on. Both have the same dapr-bolt without TodoOptions.Cluster.
type Service struct {
	*App
	Sidecar *Daprd
	Bolt    *Bolt
}

// StartTodo builds what is missing, starts the todo app and waits until all of it is healthy.
func (h *Harness) StartTodo(ctx context.Context, opts TodoOptions) (*Todo, error) {
	var t Todo
	services := []*todoService{
		{Service: &t.API, id: APIAppID, command: "api", ports: opts.API},
		{Service: &t.Scheduler, id: SchedulerAppID, command: "scheduler", ports: opts.Scheduler, args: opts.SchedulerArgs},
	}
	// Before the builds, which may take minutes.
	if err := errors.Join(services[0].checkPorts(), services[1].checkPorts()); err != nil {
		return nil, err
	}
	checkout, err := FindCheckout()
	if err != nil {
		return nil, err
	}
	programs, err := checkout.BuildPrograms(ctx)
	if err != nil {
		return nil, err
	}
	if opts.Cluster {
		if t.Servers, err = h.StartServers(ctx, checkout); err != nil {
			return nil, err
		}
	}
	for i, s := range services {
		components, bolt := h.Dir("components"), BoltOptions{Path: programs.Bolt, HTTPPort: s.ports.Bolt}
		if opts.Cluster {
			components, bolt.Name = h.Dir(s.id+"-components"), s.id+"-bolt"
			bolt.DataDir, bolt.SocketDir = h.Dir(bolt.Name), filepath.Join(h.SocketDir(), s.id)
		}
		// After a restart, dapr-bolt changes the file of the pub/sub, so that the sidecars subscribe again.
		bolt.Args = []string{"--resubscribe", filepath.Join(components, PubSubComponent+".yaml")}
		if s.Bolt = t.API.Bolt; i == 0 || opts.Cluster {
			if err := copyTodoComponents(checkout, components, t.Servers, opts.PubSub); err != nil {
				return nil, err
			}
			if s.Bolt, err = h.StartBolt(ctx, bolt); err != nil {
				return nil, err
			}
		}
		if s.ports.App, err = h.portOr(s.ports.App); err != nil {
			return nil, err
		}
		s.Sidecar, err = h.StartDaprd(DaprdOptions{
			Path: programs.Daprd, AppID: s.id, AppPort: s.ports.App, HTTPPort: s.ports.SidecarHTTP, GRPCPort: s.ports.SidecarGRPC,
			Resources: []string{components}, SocketDir: s.Bolt.SocketDir, Args: AppHealthChecks, Quiet: opts.QuietSidecars,
		})
		if err != nil {
			return nil, err
		}
	}
	for _, s := range services {
		if err := s.Sidecar.WaitCallable(ctx); err != nil {
			return nil, err
		}
		s.App, err = h.StartApp(AppOptions{
			Name: s.id, Path: programs.Todo, Port: s.ports.App,
			Args: append([]string{s.command, "--port", strconv.Itoa(s.ports.App)}, s.args...),
			// What `dapr run` tells an app about its sidecar.
			Env: []string{fmt.Sprint("DAPR_HTTP_PORT=", s.Sidecar.HTTPPort), fmt.Sprint("DAPR_GRPC_PORT=", s.Sidecar.GRPCPort)},
		})
		if err != nil {
			return nil, err
		}
	}
	return &t, WaitReady(ctx, t.API, t.Scheduler, t.API.Sidecar, t.Scheduler.Sidecar)
}

// todoService is a service that is to be.
type todoService struct {
	*Service
	id, command string
	ports       ServicePorts
	args        []string
}

// checkPorts names every port that somebody else listens on.
func (s *todoService) checkPorts() error {
	var errs []error
	for _, port := range []struct {
		number int
		use    string
	}{
		{s.ports.App, "%s"},
		{s.ports.Bolt, "health and metrics of %s's dapr-bolt"},
		{s.ports.SidecarHTTP, "HTTP of %s's sidecar"},
		{s.ports.SidecarGRPC, "gRPC of %s's sidecar"},
	} {
		if port.number == 0 {
			continue
		}
		if err := CheckPort(port.number); err != nil {
			errs = append(errs, fmt.Errorf(port.use+": %w", s.id, err))
		}
	}
	return errors.Join(errs...)
}

// copyTodoComponents copies the app's component files, as they are unless there are servers or settings for them.
func copyTodoComponents(checkout Checkout, to string, servers *Servers, pubsub []string) error {
	from := checkout.Path("components")
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil || servers == nil && len(pubsub) == 0 {
		return err
	}
	for name, settings := range map[string][]string{StoreComponent: nil, PubSubComponent: pubsub} {
		c, err := ReadComponent(filepath.Join(from, name+".yaml"))
		if err != nil {
			return err
		}
		for pair := range slices.Chunk(settings, 2) {
			c.Set(pair[0], pair[1])
		}
		if servers != nil {
			servers.Use(&c)
		}
		if err := WriteComponents(to, c); err != nil {
			return err
		}
	}
	return nil
}
