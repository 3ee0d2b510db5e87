package suites

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// inProcess returns what NewStateStore and NewPubSub take: real databases in a temporary folder.
func inProcess(t *testing.T) (component.Backend, component.ComponentOptions) {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	manager, err := databases.Open(t.Context(), databases.Options{Dir: t.TempDir(), Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, manager.Close(context.Background())) })
	return manager, component.ComponentOptions{Logger: logger}
}

// startProcess starts the dapr-bolt binary and returns the socket that it serves.
func startProcess(t *testing.T) (socket string) {
	t.Helper()
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	return filepath.Join(bolt.SocketDir, component.DefaultName+".sock")
}
