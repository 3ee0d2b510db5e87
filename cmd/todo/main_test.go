package main

import (
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func execute(ctx context.Context, args ...string) error {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetErr(&bytes.Buffer{})
	return cmd.ExecuteContext(ctx)
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct {
		args []string
		port string
		says []string
	}{
		{args: []string{"api", "--port", "99999"}, says: []string{"listen on 127.0.0.1:99999"}},
		{args: []string{"api"}, port: "many", says: []string{"listen on 127.0.0.1:many"}},
		{args: []string{"api", "--shutdown-timeout", "soon"}, says: []string{"--shutdown-timeout", `"soon"`}},
		{args: []string{"sheduler"}, says: []string{"sheduler"}},
	} {
		t.Run(c.says[0], func(t *testing.T) {
			t.Setenv("APP_PORT", c.port)
			err := execute(t.Context(), c.args...)
			for _, says := range c.says {
				require.ErrorContains(t, err, says)
			}
		})
	}
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
		err := execute(t.Context(), service, "--port", "0", "--sidecar-timeout", "50ms")
		require.ErrorContains(t, err, "no Dapr sidecar at 127.0.0.1:")
		require.ErrorContains(t, err, "DAPR_GRPC_PORT")
	}
}

func TestStopWhileWaitingForTheSidecar(t *testing.T) {
	noSidecar(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := newCommand()
	cmd.SetArgs([]string{"api", "--port", "0"})
	cmd.SetErr(logWatch{"Waiting for the sidecar", func(string) { cancel() }})
	require.NoError(t, cmd.ExecuteContext(ctx))
}

func TestPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.ErrorContains(t, execute(t.Context(), "api", "--port", port), "listen on 127.0.0.1:"+port)
}

func TestSidecarAddress(t *testing.T) {
	t.Setenv("DAPR_GRPC_ENDPOINT", "")
	t.Setenv("DAPR_GRPC_PORT", "")
	require.Equal(t, "127.0.0.1:50001", sidecarAddress())
	t.Setenv("DAPR_GRPC_PORT", "3501")
	require.Equal(t, "127.0.0.1:3501", sidecarAddress())
	t.Setenv("DAPR_GRPC_ENDPOINT", "https://dapr.example:443")
	require.Equal(t, "https://dapr.example:443", sidecarAddress())
}

// logWatch is a log that tells of each line with a text in it.
type logWatch struct {
	text string
	tell func(line string)
}

func (w logWatch) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(w.text)) {
		w.tell(string(line))
	}
	return len(line), nil
}
