package harness_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func TestPortsInUseAreNamedBeforeAnythingStarts(t *testing.T) {
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })

	var taken [2]int
	for i := range taken {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		taken[i] = listener.Addr().(*net.TCPAddr).Port
	}
	_, err = h.StartTodo(t.Context(), harness.TodoOptions{
		API: harness.ServicePorts{App: taken[0]}, Scheduler: harness.ServicePorts{SidecarGRPC: taken[1]},
	})
	require.EqualError(t, err, fmt.Sprintf("todo-api: port %d is in use by another process\n"+
		"gRPC of todo-scheduler's sidecar: port %d is in use by another process", taken[0], taken[1]))
}
