package torture

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var kills = flag.Int("kills", 30, "how often TestTorture kills the process")

func startBolt(t *testing.T) *harness.Bolt {
	t.Helper()
	checkout, err := build.FindCheckout()
	require.NoError(t, err)
	path, err := checkout.Command(t.Context(), "dapr-bolt", os.Stderr)
	require.NoError(t, err)
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			h.Keep()
			t.Logf("logs and data are in %s", h.Dir())
		}
		require.NoError(t, h.Close())
	})
	bolt, err := h.StartBolt(t.Context(), harness.BoltOptions{Path: path, Env: []string{"GORACE=halt_on_error=1 atexit_sleep_ms=0"}})
	require.NoError(t, err)
	return bolt
}

func TestTorture(t *testing.T) {
	report, err := Run(t.Context(), Options{Bolt: startBolt(t), Kills: *kills, Progress: os.Stdout})
	require.NoError(t, err)
	require.NoError(t, report.Print(os.Stdout))
	require.Equal(t, *kills, report.Kills)
	require.Empty(t, report.Broken)
	for what, n := range map[string]int{
		"writes": report.Writes, "refused writes": report.Refused, "accepted events": report.Accepted,
		"duplicates": report.Duplicates, "deliveries": report.Deliveries, "dead letters": report.Dead, "checks": report.Checks,
	} {
		require.Positive(t, n, "%s: it must have been at work", what)
	}
}
