package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

var (
	cuts = flag.Int("cuts", 30, "how often TestPowerCuts cuts the power while dapr-bolt serves")
	bolt = flag.String("bolt", "", "the dapr-bolt to test, such as one with a sync taken out; none: that of this checkout")
	seed = flag.Uint64("seed", 0, "what TestPowerCuts does follows from it, as far as processes can be told what to do; 0: another one each time")
)

func firstSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return rand.Uint64()
}

// What was acknowledged is on disk when the power goes out, what was not does no harm, and no file is damaged.
func TestPowerCuts(t *testing.T) { cutPower(t, startMachine(t, firstSeed()), *cuts) }

// And what was answered with an error, because the disk failed, does not show up later.
func TestPowerCutsOfAFailingDisk(t *testing.T) {
	m := startMachine(t, firstSeed())
	m.faults = true
	cutPower(t, m, max(*cuts/3, 1))
	require.Positive(t, m.failures)
}

func cutPower(t *testing.T, m *machine, kills int) {
	report, err := Run(t.Context(), Options{
		Bolt: m.Bolt, Victim: m, Kills: kills, MostAcks: 400, UntilBroken: true, Excuses: m.excuses, Progress: os.Stdout,
	})
	t.Logf("%d power cuts, %d of them in recovery, %d in a compaction; %d compactions and %d backups in between; %d failed writes and syncs",
		m.cuts, m.inRecovery, m.inCompaction, m.compactions, m.copies.backups(), m.failures)
	require.NoError(t, err)
	require.NoError(t, report.Print(os.Stdout))
	require.Empty(t, report.Broken)
	require.GreaterOrEqual(t, m.cuts, kills)
}

// What is written first is as safe as what comes later: to a data directory that dapr-bolt has just made, to a database
// that was just compacted, and to one in the place of another that was removed, by sidecars that are known from before.
func TestPowerCutsOfYoungDatabases(t *testing.T) {
	first := firstSeed()
	for round := range max(*cuts/6, 1) {
		t.Run("", func(t *testing.T) {
			m := startMachine(t, first+uint64(round))
			store, err := harness.Dial(filepath.Join(m.SocketDir, "bolt.sock"), "store", grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			require.NoError(t, store.InitState(t.Context()))
			writeAndCut := func(what string) {
				require.NoError(t, store.Set(t.Context(), "key", []byte(what)))
				m.cut()
				require.NoError(t, m.failure())
				require.NoError(t, m.Bolt.Restart(t.Context()))
				value, err := store.Get(t.Context(), "key")
				require.NoError(t, err)
				require.Equal(t, what, string(value))
			}
			writeAndCut("in a new data directory")

			require.NoError(t, m.Stop())
			require.NoError(t, m.Command(t.Context(), nil, "compact"))
			require.NoError(t, m.Bolt.Restart(t.Context()))
			writeAndCut("in a compacted database")

			for syncs := 1; m.compactions == 0; syncs++ {
				what := fmt.Sprintf("before a compaction that ends at sync %d", syncs)
				require.NoError(t, store.Set(t.Context(), "key", []byte(what)))
				m.Bolt.Kill()
				require.NoError(t, m.compactUntil(m.disk.CutBeforeSync(syncs)))
				require.NoError(t, m.Bolt.Restart(t.Context()))
				value, err := store.Get(t.Context(), "key")
				require.NoError(t, err)
				require.Equal(t, what, string(value))
			}

			remove := func() {
				require.NoError(t, m.Stop())
				for _, name := range m.disk.List("data") {
					if strings.HasPrefix(name, "dapr.db") {
						require.NoError(t, os.Remove(filepath.Join(m.DataDir, name)))
					}
				}
				require.NoError(t, durable.SyncDir(m.DataDir))
			}
			remove()
			require.NoError(t, m.Bolt.Restart(t.Context()))
			writeAndCut("in a new database")

			for syncs, stored := 1, false; !stored; syncs++ {
				remove()
				out := m.disk.CutBeforeSync(syncs)
				require.NoError(t, m.Bolt.Start())
				ctx, cancel := context.WithCancel(t.Context())
				answer := make(chan error, 1)
				go func() { answer <- store.Set(ctx, "key", []byte("first")) }()
				select {
				case <-out:
				case err := <-answer:
					require.NoError(t, err)
					stored = true
				}
				cancel()
				m.cut()
				require.NoError(t, m.failure())
				require.NoError(t, m.Bolt.Restart(t.Context()), "the power went out before sync %d of a new database", syncs)
				require.NoError(t, store.Set(t.Context(), "key", []byte("second")))
			}
		})
	}
}

// startMachine starts dapr-bolt on a disk of its own. Both end with the test; what the disk holds is kept if that failed.
func startMachine(t *testing.T, seed uint64) *machine {
	t.Helper()
	m := &machine{disk: NewDisk(seed), folder: t.TempDir(), random: rand.New(rand.NewPCG(seed, 1))}
	m.unmount = mountOrSkip(t, m.disk, m.folder)
	t.Cleanup(func() { require.NoError(t, m.unmount()) })
	require.NoError(t, os.Mkdir(m.backupDir(), 0o700))
	require.NoError(t, durable.SyncDir(m.folder))
	h := harness.ForTest(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the seed was %d", seed)
			for _, name := range m.disk.List("data") {
				if content, ok := m.disk.Read("data/" + name); ok {
					require.NoError(t, os.WriteFile(filepath.Join(h.Dir(), "disk-"+name), content, 0o600))
				}
			}
		}
	})
	// dapr-bolt makes the folder itself, and nobody else syncs its name.
	data := filepath.Join(m.folder, "data")
	m.Bolt = harness.StartBolt(t, h, harness.BoltOptions{Path: *bolt, Args: []string{"--data-dir", data}})
	m.DataDir = data
	return m
}
