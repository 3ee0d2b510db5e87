package suites

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
)

func TestMain(m *testing.M) {
	// Importing the runtime starts this one, for good.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// startProcess starts the dapr-bolt binary and returns the socket that it serves.
func startProcess(t *testing.T) (socket string) {
	t.Helper()
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	return filepath.Join(bolt.SocketDir, component.DefaultName+".sock")
}
