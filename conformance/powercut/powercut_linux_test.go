package powercut

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/crash"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var (
	cuts = flag.Int("cuts", 30, "how often TestPowerCuts cuts the power while dapr-bolt serves")
	seed = flag.Uint64("seed", rand.Uint64(), "what TestPowerCuts does follows from it, as far as processes can be told what to do")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What was acknowledged is on disk when the power goes out, what was not does no harm, and no file is damaged.
func TestPowerCuts(t *testing.T) {
	m := startMachine(t)
	report, err := crash.Run(t.Context(), crash.Options{
		Bolt: m.Bolt, Victim: m, Kills: *cuts, MostAcks: 200, UntilBroken: true, Progress: os.Stdout,
	})
	t.Logf("%d power cuts, %d of them in recovery, %d in a compaction; %d compactions and %d backups in between",
		m.cuts, m.inRecovery, m.inCompaction, m.compactions, m.copies.backups())
	require.NoError(t, err)
	require.NoError(t, report.Print(os.Stdout))
	require.Empty(t, report.Broken)
	require.GreaterOrEqual(t, m.cuts, *cuts)
}

// startMachine starts dapr-bolt on a disk of its own. Both end with the test; what the disk holds is kept if that failed.
func startMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{disk: NewDisk(*seed), folder: t.TempDir(), random: rand.New(rand.NewPCG(*seed, 1))}
	m.unmount = mountOrSkip(t, m.disk, m.folder)
	t.Cleanup(func() { require.NoError(t, m.unmount()) })
	h := harness.ForTest(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the seed was %d: go test -run '^%s$' -seed %d -cuts %d", *seed, t.Name(), *seed, *cuts)
			for _, name := range m.disk.List("data") {
				if content, ok := m.disk.Read("data/" + name); ok {
					require.NoError(t, os.WriteFile(filepath.Join(h.Dir(), "disk-"+name), content, 0o600))
				}
			}
		}
	})
	// dapr-bolt makes the folder itself.
	data := filepath.Join(m.folder, "data")
	m.Bolt = harness.StartBolt(t, h, harness.BoltOptions{Args: []string{"--data-dir", data}})
	m.DataDir = data
	return m
}
