package harness

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"strconv"
)

// AppOptions describe a service that has a sidecar.
type AppOptions struct {
	// Name is the process's name in logs.
	Name string
	// Path is the binary.
	Path string
	Args []string
	Env  []string
	// Port is where the app serves HTTP. It is not passed on: say it in Args or Env.
	Port int
	// ReadyPath is what answers with 2xx once the app does its work. Default: /healthz.
	ReadyPath string
}

// App is the process of a service.
type App struct {
	*Process
	// Address is where it serves HTTP, host and port.
	Address string
}

// StartApp starts the app. Wait for it, and for its sidecar, with WaitReady.
func (h *Harness) StartApp(opts AppOptions) (*App, error) {
	app := &App{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(opts.Port))}
	var err error
	app.Process, err = h.start(kindApp, spec{
		Name:  opts.Name,
		Path:  opts.Path,
		Args:  opts.Args,
		Env:   opts.Env,
		Ready: answers("http://" + app.Address + cmp.Or(opts.ReadyPath, "/healthz")),
	})
	return app, err
}

// Call sends a request to the app itself, past the sidecar; see Call.
func (a *App) Call(ctx context.Context, method, path string, body any, headers ...string) (Response, error) {
	return Call(ctx, method, "http://"+a.Address+path, body, headers...)
}

// Get asks the app for path and decodes its JSON into result.
func (a *App) Get(ctx context.Context, path string, result any) error {
	response, err := a.Call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := response.OK(); err != nil {
		return err
	}
	return response.JSON(result)
}

// ServerOptions describe any other program that listens, such as a database.
type ServerOptions struct {
	// Name is the process's name in logs.
	Name string
	// Path is the binary.
	Path      string
	Args, Env []string
	// Network and Address are where it listens, as in net.Dial. They are not passed on: say them in Args. Network's
	// default: tcp.
	Network, Address string
}

// StartServer starts the program. It is ready, for WaitReady, when it takes connections.
func (h *Harness) StartServer(opts ServerOptions) (*Process, error) {
	return h.start(kindServer, spec{Name: opts.Name, Path: opts.Path, Args: opts.Args, Env: opts.Env, Ready: func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, cmp.Or(opts.Network, "tcp"), opts.Address)
		if err != nil {
			return err
		}
		return conn.Close()
	}})
}
