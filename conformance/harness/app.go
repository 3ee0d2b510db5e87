package harness

import (
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
	if opts.ReadyPath == "" {
		opts.ReadyPath = "/healthz"
	}
	var err error
	app.Process, err = h.start(kindApp, spec{
		Name:  opts.Name,
		Path:  opts.Path,
		Args:  opts.Args,
		Env:   append([]string{"GORACE=halt_on_error=1"}, opts.Env...),
		Ready: answers("http://" + app.Address + opts.ReadyPath),
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
