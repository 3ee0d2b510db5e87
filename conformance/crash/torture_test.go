package crash

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var kills = flag.Int("kills", 20, "how often TestTorture kills the process")

func startBolt(t *testing.T) *harness.Bolt {
	t.Helper()
	return harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
}

func TestTorture(t *testing.T) {
	t.Parallel()
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
