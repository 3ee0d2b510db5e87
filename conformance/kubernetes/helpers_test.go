package kubernetes_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

type assertCollect = assert.CollectT

// readLog returns everything that a process has printed, over all its runs.
func readLog(t *testing.T, process *harness.App) string {
	t.Helper()
	raw, err := os.ReadFile(process.LogPath())
	require.NoError(t, err)
	return string(raw)
}
