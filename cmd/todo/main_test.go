package main

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func execute(ctx context.Context, args ...string) (log string, err error) {
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err = cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  [2]string
		says []string
	}{
		{args: []string{"api", "--port", "99999"}, says: []string{"--port", "99999"}},
		{args: []string{"api", "--log-level", "loud"}, says: []string{"log-level", `"loud"`, "debug, info, warn or error"}},
		{args: []string{"api"}, env: [2]string{"TODO_LOG_LEVEL", "loud"}, says: []string{"log-level", `"loud"`}},
		{args: []string{"api"}, env: [2]string{"TODO_SIDECAR_TIMEOUT", "soon"}, says: []string{"TODO_SIDECAR_TIMEOUT", `"soon"`}},
		{args: []string{"scheduler", "--slots-per-day", "0"}, says: []string{"slots-per-day", `"0"`, "1 to 480"}},
		{args: []string{"scheduler"}, env: [2]string{"TODO_SLOTS_PER_DAY", "481"}, says: []string{"slots-per-day", `"481"`, "1 to 480"}},
		{args: []string{"sheduler"}, says: []string{"sheduler"}},
	} {
		t.Run(c.says[0], func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			_, err := execute(t.Context(), c.args...)
			for _, says := range c.says {
				require.ErrorContains(t, err, says)
			}
		})
	}
}

func TestFlagWinsOverEnvironment(t *testing.T) {
	t.Setenv("TODO_LOG_LEVEL", "loud")
	noSidecar(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := execute(ctx, "api", "--port", "0", "--log-level", "error")
	require.NoError(t, err)
}

// noSidecar points the app at a port where nobody listens.
func noSidecar(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Setenv("DAPR_GRPC_ENDPOINT", listener.Addr().String())
	require.NoError(t, listener.Close())
}

func TestNoSidecarIsAClearError(t *testing.T) {
	noSidecar(t)
	for _, service := range []string{"api", "scheduler"} {
		log, err := execute(t.Context(), service, "--port", "0", "--sidecar-timeout", "50ms", "--log-json")
		require.ErrorContains(t, err, "no Dapr sidecar at 127.0.0.1:")
		require.ErrorContains(t, err, "DAPR_GRPC_PORT")
		require.Contains(t, log, `"msg":"Listening","app_id":"todo-`+service+`"`, "it listens before it waits")
	}
}

func TestStopWhileWaitingForTheSidecar(t *testing.T) {
	noSidecar(t)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := stopOn{"Waiting for the sidecar", cancel}
	cmd := newCommand()
	cmd.SetArgs([]string{"api", "--port", "0"})
	cmd.SetErr(waiting)
	require.NoError(t, cmd.ExecuteContext(ctx))
}

// stopOn is a log that calls stop when a text comes by.
type stopOn struct {
	text string
	stop func()
}

func (s stopOn) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(s.text)) {
		s.stop()
	}
	return len(line), nil
}

func TestPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	_, err = execute(t.Context(), "api", "--port", strconv.Itoa(port))
	require.ErrorContains(t, err, "listen on 127.0.0.1:"+strconv.Itoa(port))
}
