package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What an app that a test starts as a process of its own is told; such an app is this very binary.
const (
	appVariable     = "APP_UNDER_TEST"
	portVariable    = "APP_PORT"
	controlVariable = "APP_CONTROL"
)

// apps are what such a process can be.
var apps = map[string]func(ctx context.Context, address string) error{
	"actors":   serveActors,
	"workflow": serveWorkflow,
	"notes":    serveNotes,
}

func runApp() (status int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	serve, ok := apps[os.Getenv(appVariable)]
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no app %q\n", os.Getenv(appVariable))
		return 2
	}
	if err := serve(ctx, "127.0.0.1:"+os.Getenv(portVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process starts the app by that name behind the sidecar.
func (e *env) process(name string, port int, d *harness.Daprd, control string) *harness.App {
	e.t.Helper()
	a, err := e.StartApp(harness.AppOptions{
		Name: name,
		Path: os.Args[0],
		Port: port,
		Env: []string{
			appVariable + "=" + name,
			portVariable + "=" + strconv.Itoa(port),
			controlVariable + "=" + control,
			"DAPR_HTTP_PORT=" + strconv.Itoa(d.HTTPPort),
			"DAPR_GRPC_PORT=" + strconv.Itoa(d.GRPCPort),
		},
	})
	require.NoError(e.t, err)
	return a
}

// steps is where an app in another process says what it is about to do, and waits to be let go.
type steps struct {
	reached chan step
}

type step struct {
	name string
	// letGo is to be closed; the app may be gone by then.
	letGo chan struct{}
}

func newSteps() *steps { return &steps{reached: make(chan step)} }

// ServeHTTP implements http.Handler.
func (s *steps) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, err := io.ReadAll(r.Body)
	if err != nil {
		return // the app died
	}
	reached := step{name: string(name), letGo: make(chan struct{})}
	select {
	case s.reached <- reached:
	case <-r.Context().Done():
		return
	}
	select {
	case <-reached.letGo:
	case <-r.Context().Done():
	}
}

// reach tells the test that the app is at a step, and returns when the test lets it go on.
func reach(ctx context.Context, name string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv(controlVariable), bytes.NewBufferString(name))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
