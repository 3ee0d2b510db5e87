package e2e_test

import (
	"context"
	"net"
	"strconv"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// controlPlanePrograms are those of placement and scheduler, made once.
var controlPlanePrograms = sync.OnceValues(func() (programs [2]string, err error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return programs, err
	}
	if programs[0], err = checkout.Placement(context.Background()); err != nil {
		return programs, err
	}
	programs[1], err = checkout.Scheduler(context.Background())
	return programs, err
})

// controlPlane is the two Dapr services that actors and workflows need beside a sidecar: placement, which knows where each
// actor lives, and the scheduler, which keeps reminders.
type controlPlane struct {
	placement, scheduler *harness.App
	sidecarArgs          []string // tell a sidecar where they are
}

// startControlPlane starts both on free ports and waits until they are healthy.
func (e *env) startControlPlane() *controlPlane {
	e.t.Helper()
	programs, err := controlPlanePrograms()
	require.NoError(e.t, err)
	const localhost = "127.0.0.1"
	port := func() string {
		port, err := e.FreePort()
		require.NoError(e.t, err)
		return strconv.Itoa(port)
	}
	address := func(port string) string { return net.JoinHostPort(localhost, port) }
	start := func(name, path string, args ...string) *harness.App {
		health, err := e.FreePort()
		require.NoError(e.t, err)
		app, err := e.StartApp(harness.AppOptions{Name: name, Path: path, Port: health, Args: append(args,
			"--listen-address", localhost, "--healthz-listen-address", localhost, "--healthz-port", strconv.Itoa(health), "--enable-metrics=false")})
		require.NoError(e.t, err)
		return app
	}
	placementPort, schedulerPort := port(), port()
	plane := &controlPlane{
		placement: start("placement", programs[0],
			"--port", placementPort,
			"--initial-cluster", "dapr-placement-0="+address(port())),
		scheduler: start("scheduler", programs[1],
			"--port", schedulerPort,
			"--override-broadcast-host-port", address(schedulerPort),
			"--etcd-data-dir", e.Dir("scheduler"),
			"--etcd-client-listen-address", localhost,
			"--etcd-client-port", port(),
			"--etcd-initial-cluster", "dapr-scheduler-server-0=http://"+address(port()),
			"--identity-directory-write", e.Dir("scheduler-identity")),
		sidecarArgs: []string{"--placement-host-address", address(placementPort), "--scheduler-host-address", address(schedulerPort)},
	}
	require.NoError(e.t, harness.WaitReady(e.t.Context(), plane.placement, plane.scheduler))
	return plane
}
