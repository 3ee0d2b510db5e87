package harness

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// DaprdOptions describe a Dapr sidecar.
type DaprdOptions struct {
	// Path is the binary.
	Path string
	// Name is the process's name in logs. Default: the app id and "-daprd".
	Name string
	// AppID is the app's name in Dapr, and so its consumer group.
	AppID string
	// AppPort is where the app serves HTTP. Default: there is no app.
	AppPort int
	// Resources are the folders with component files.
	Resources []string
	// SocketDir is where the sidecar looks for components. Default: the harness's.
	SocketDir string
	// HTTPPort and GRPCPort serve Dapr's API. Default: free ports.
	HTTPPort, GRPCPort int
	// LogLevel is debug, info, warn or error. Default: info.
	LogLevel string
	// Quiet keeps what the sidecar prints out of the harness's output.
	Quiet bool
	// Args and Env are added to what the other fields say.
	Args, Env []string
}

// AppHealthChecks has a sidecar hold events back while its app does not answer /healthz.
var AppHealthChecks = []string{
	"--enable-app-health-check", "--app-health-check-path", "/healthz", "--app-health-probe-interval", "1", "--app-health-threshold", "2",
}

// Daprd is a sidecar process.
type Daprd struct {
	*Process
	// AppID is the app that it serves.
	AppID string
	// HTTPPort and GRPCPort serve Dapr's API on 127.0.0.1.
	HTTPPort, GRPCPort int
}

// StartDaprd starts a sidecar. It is ready, for WaitReady, when its components are
// initialised and, if it has an app, the app listens and its subscriptions are read.
// The components must listen already.
func (h *Harness) StartDaprd(opts DaprdOptions) (*Daprd, error) {
	if opts.AppID == "" {
		return nil, errors.New("the sidecar has no app id")
	}
	httpPort, err1 := h.portOr(opts.HTTPPort)
	grpcPort, err2 := h.portOr(opts.GRPCPort)
	internalPort, err3 := h.FreePort()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	args := []string{
		"--app-id", opts.AppID,
		"--dapr-http-port", strconv.Itoa(httpPort),
		"--dapr-grpc-port", strconv.Itoa(grpcPort),
		"--dapr-internal-grpc-port", strconv.Itoa(internalPort),
		"--dapr-listen-addresses", "127.0.0.1",
		"--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false",
		"--log-level", cmp.Or(opts.LogLevel, "info"),
	}
	if opts.AppPort != 0 {
		args = append(args, "--app-port", strconv.Itoa(opts.AppPort), "--app-protocol", "http")
	}
	for _, dir := range opts.Resources {
		args = append(args, "--resources-path", dir)
	}
	daprd := &Daprd{AppID: opts.AppID, HTTPPort: httpPort, GRPCPort: grpcPort}
	daprd.Process, err1 = h.start(kindSidecar, spec{
		Name:  cmp.Or(opts.Name, opts.AppID+"-daprd"),
		Path:  opts.Path,
		Args:  append(args, opts.Args...),
		Quiet: opts.Quiet,
		Env:   append([]string{"DAPR_COMPONENTS_SOCKETS_FOLDER=" + cmp.Or(opts.SocketDir, h.SocketDir())}, opts.Env...),
		Ready: answers(daprd.url("/v1.0/healthz")),
	})
	return daprd, err1
}

// WaitCallable waits until the app can call the sidecar, which it can before the
// sidecar has found the app. An app that starts after that need not try twice.
func (d *Daprd) WaitCallable(ctx context.Context) error {
	return d.wait(ctx, answers(d.url("/v1.0/healthz/outbound")))
}

func (d *Daprd) url(path string) string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(d.HTTPPort)) + path
}

// Call sends a request to the sidecar's HTTP API; see Call.
func (d *Daprd) Call(ctx context.Context, method, path string, body any, headers ...string) (Response, error) {
	return Call(ctx, method, d.url(path), body, headers...)
}

// Publish publishes data, as JSON, with the metadata that Dapr passes on.
func (d *Daprd) Publish(ctx context.Context, pubsub, topic string, data any, metadata map[string]string) error {
	query := url.Values{}
	for key, value := range metadata {
		query.Set("metadata."+key, value)
	}
	path := "/v1.0/publish/" + url.PathEscape(pubsub) + "/" + url.PathEscape(topic) + "?" + query.Encode()
	response, err := d.Call(ctx, http.MethodPost, path, data)
	if err != nil {
		return err
	}
	return response.OK()
}
