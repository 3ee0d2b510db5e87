package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// On a full disk, a publish is refused with an error that says so; what was accepted is delivered; and all goes on by
// itself when there is room.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	// A limit on the size of files needs nobody's permission, and fails writes where the file would have to grow.
	t.Run("of the process's limit", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		var before unix.Rlimit
		require.NoError(t, unix.Prlimit(e.bolt.PID(), unix.RLIMIT_FSIZE, nil, &before))
		e.fillsUp("file too large",
			func() {
				limit := unix.Rlimit{Cur: 2 << 20, Max: before.Max}
				require.NoError(t, unix.Prlimit(e.bolt.PID(), unix.RLIMIT_FSIZE, &limit, nil))
			},
			func() { require.NoError(t, unix.Prlimit(e.bolt.PID(), unix.RLIMIT_FSIZE, &before, nil)) })
	})
	t.Run("of its own", func(t *testing.T) {
		t.Parallel()
		disk := filepath.Join(t.TempDir(), "disk")
		require.NoError(t, os.Mkdir(disk, 0o700))
		if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
			t.Skipf("this user may not mount a disk of 2 MiB (%v); the same was tested with a limit on the file's size", err)
		}
		t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, 0)) })
		e := newEnvOn(t, harness.BoltOptions{DataDir: filepath.Join(disk, "data")})
		e.fillsUp("no space left on device", func() {}, func() {
			require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=32m"))
		})
	})
}

// fillsUp publishes until the disk that shrink leaves is full, and again when grow has made room.
func (e *env) fillsUp(reason string, shrink, grow func()) {
	t := e.t
	t.Helper()
	free := make(chan struct{})
	a := e.app(func(delivery) (int, string) { <-free; return http.StatusOK, "" }, subscribe("orders"))
	d := e.sidecar("shop", "shop", a)
	e.ready(d)
	e.streams("orders", "shop", 1)
	shrink()
	payload := strings.Repeat("x", 64<<10)
	publish := func(id string) error {
		return d.Publish(t.Context(), pubsubName, "orders", payload, map[string]string{"cloudevent.id": id})
	}
	accepted, refused := 0, 0
	var refusal error
	// A refused event may find room a moment later, where an acknowledgement has made some.
	for refused < 5 {
		if err := publish(eventID(accepted)); err != nil {
			refusal = err
			refused++
			continue
		}
		refused = 0
		accepted++
		require.Less(t, accepted, 100, "the disk did not get full")
	}
	require.ErrorContains(t, refusal, "status 500")
	require.ErrorContains(t, refusal, reason)

	// Reading goes on; acknowledgements wait until they can be written.
	close(free)
	a.wait(accepted)
	grow()
	e.eventually(func(c *assert.CollectT) { require.NoError(c, publish(eventID(accepted))) })
	e.settled()
	require.Equal(t, eventIDs(accepted+1), a.ids(), "none lost, none twice")
	e.eventually(func(c *assert.CollectT) { require.NoError(c, e.bolt.WaitReady(t.Context())) })
	require.NoError(t, d.Stop())
	require.NoError(t, e.bolt.Stop())
	require.NoError(t, e.bolt.Command(t.Context(), nil, "check"))
	fmt.Printf("%d events of 64 KiB fitted; then: %.300s\n", accepted, refusal)
}
