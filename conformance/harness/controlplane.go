package harness

import (
	"context"
	"net"
	"strconv"
)

// ControlPlane is the two Dapr services that actors and workflows need beside a sidecar: placement, which knows where each
// actor lives, and the scheduler, which keeps reminders. The harness that they were started in stops them.
type ControlPlane struct {
	Placement, Scheduler *App

	placementAddress, schedulerAddress string
}

// StartControlPlane starts both programs on free ports, with data in the harness's folder, and waits until they are
// healthy.
func (h *Harness) StartControlPlane(ctx context.Context, placement, scheduler string) (*ControlPlane, error) {
	var c ControlPlane
	var ports [7]int
	for i := range ports {
		var err error
		if ports[i], err = h.FreePort(); err != nil {
			return nil, err
		}
	}
	c.placementAddress, c.schedulerAddress = address(ports[0]), address(ports[3])
	var err error
	c.Placement, err = h.StartApp(AppOptions{
		Name: "placement",
		Path: placement,
		Port: ports[1],
		Args: []string{
			"--listen-address", localhost,
			"--port", strconv.Itoa(ports[0]),
			"--healthz-listen-address", localhost,
			"--healthz-port", strconv.Itoa(ports[1]),
			"--initial-cluster", "dapr-placement-0=" + address(ports[2]),
			"--enable-metrics=false",
		},
	})
	if err != nil {
		return nil, err
	}
	c.Scheduler, err = h.StartApp(AppOptions{
		Name: "scheduler",
		Path: scheduler,
		Port: ports[4],
		Args: []string{
			"--listen-address", localhost,
			"--port", strconv.Itoa(ports[3]),
			"--override-broadcast-host-port", c.schedulerAddress,
			"--healthz-listen-address", localhost,
			"--healthz-port", strconv.Itoa(ports[4]),
			"--etcd-data-dir", h.Dir("scheduler"),
			"--etcd-client-listen-address", localhost,
			"--etcd-client-port", strconv.Itoa(ports[5]),
			"--etcd-initial-cluster", "dapr-scheduler-server-0=http://" + address(ports[6]),
			"--identity-directory-write", h.Dir("scheduler-identity"),
			"--enable-metrics=false",
		},
	})
	if err != nil {
		return nil, err
	}
	return &c, WaitReady(ctx, c.Placement, c.Scheduler)
}

// SidecarArgs tell a sidecar where the services are.
func (c *ControlPlane) SidecarArgs() []string {
	return []string{"--placement-host-address", c.placementAddress, "--scheduler-host-address", c.schedulerAddress}
}

const localhost = "127.0.0.1"

func address(port int) string { return net.JoinHostPort(localhost, strconv.Itoa(port)) }
