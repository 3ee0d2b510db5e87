package suites

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
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
	return manager, component.ComponentOptions{
		Defaults: component.Defaults{
			Database:     databases.DefaultDatabase,
			StateBucket:  databases.DefaultStateBucket,
			PubSubBucket: databases.DefaultPubSubBucket,
		},
		Logger: logger,
	}
}

// startProcess starts the dapr-bolt binary and returns the socket that it serves.
func startProcess(t *testing.T) (socket string) {
	t.Helper()
	checkout, err := build.FindCheckout()
	require.NoError(t, err)
	path, err := checkout.Command(t.Context(), "dapr-bolt", os.Stderr)
	require.NoError(t, err)
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	bolt, err := h.StartBolt(t.Context(), harness.BoltOptions{Path: path})
	require.NoError(t, err)
	return filepath.Join(bolt.SocketDir, component.DefaultName+".sock")
}
