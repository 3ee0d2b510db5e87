package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const large = 200 << 10

// fill writes large values until one is refused, and returns how many were acknowledged and the refusal.
func fill(t *testing.T, c *harness.Client) (acknowledged int, refusal error) {
	t.Helper()
	const most = 500
	for ; acknowledged < most; acknowledged++ {
		if refusal = c.Set(t.Context(), fmt.Sprintf("fill-%d", acknowledged), make([]byte, large)); refusal != nil {
			return acknowledged, refusal
		}
	}
	require.FailNow(t, "nothing was refused")
	return 0, nil
}

// outOfRoom plays what must hold while there is no room: full makes that so if filling does not, and makeRoom ends it.
func outOfRoom(t *testing.T, e *env, b *harness.Bolt, why string, full, makeRoom func()) {
	t.Helper()
	store, topics := e.store(b), e.pubsub(b, "shop")
	require.NoError(t, store.Set(t.Context(), "small", []byte("before")))
	require.NoError(t, topics.Publish(t.Context(), "orders", "first", []byte("first")))
	e.readyz(b, http.StatusOK, "ok")
	full()
	pid := b.PID()

	acknowledged, err := fill(t, store)
	require.Equal(t, codes.ResourceExhausted, status.Code(err), err.Error())
	require.ErrorContains(t, err, why)
	fmt.Printf("%s: after %d values: %s\n", t.Name(), acknowledged, status.Convert(err).Message())
	err = topics.Publish(t.Context(), "orders", "refused", make([]byte, 8*large))
	require.Equal(t, codes.ResourceExhausted, status.Code(err), fmt.Sprint(err))
	require.ErrorContains(t, err, why)
	code, body := e.get(b, http.MethodGet, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, why)
	code, _ = e.get(b, http.MethodGet, "/healthz")
	require.Equal(t, http.StatusOK, code, "it is alive: a restart would mend nothing")

	everything := func() {
		t.Helper()
		got, err := store.Get(t.Context(), "small")
		require.NoError(t, err)
		require.Equal(t, "before", string(got))
		for i := range acknowledged {
			got, err := store.Get(t.Context(), fmt.Sprintf("fill-%d", i))
			require.NoError(t, err)
			require.Len(t, got, large)
		}
		got, err = store.Get(t.Context(), fmt.Sprintf("fill-%d", acknowledged))
		require.NoError(t, err)
		require.Empty(t, got, "a write that was refused is not there")
	}
	everything()
	stream, err := topics.Pull(t.Context(), "orders")
	require.NoError(t, err)
	m, err := stream.Recv()
	require.NoError(t, err, "deliveries go on")
	require.Equal(t, "first", string(m.GetData()))

	makeRoom()
	e.readyz(b, http.StatusOK, "ok")
	require.NoError(t, store.Set(t.Context(), "after", make([]byte, large)))
	require.NoError(t, topics.Publish(t.Context(), "orders", "after", make([]byte, large)))
	everything()
	require.Equal(t, pid, b.PID(), "without a restart")

	b.Kill()
	require.NoError(t, b.Restart(t.Context()))
	require.EventuallyWithT(t, func(collect *assert.CollectT) {
		_, err := store.Get(t.Context(), "small")
		require.NoError(collect, err)
	}, patience, poll)
	everything()
	require.NoError(t, b.Stop())
	require.NoError(t, b.Command(t.Context(), nil, "check"))
}

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mounting a small file system")
	e := newEnv(t)
	dir := e.Dir("small-disk")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m,mode=700"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 7<<20), 0o600))
	b := e.bolt(harness.BoltOptions{DataDir: filepath.Join(dir, "data")})
	outOfRoom(t, e, b, "no space left on device", func() {}, func() { require.NoError(t, os.Remove(ballast)) })
}

func TestAFileSizeLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	limit := func(n uint64) {
		t.Helper()
		require.NoError(t, unix.Prlimit(b.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}, nil))
	}
	outOfRoom(t, e, b, "file too large", func() { limit(2 << 20) }, func() { limit(unix.RLIM_INFINITY) })
}

// A file that grows past what was allocated for it takes another path than one that has room.
func TestAFileSizeLimitWhereTheFileGrows(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	info, err := os.Stat(filepath.Join(b.DataDir, "dapr.db"))
	require.NoError(t, err)
	limit := func(n uint64) {
		t.Helper()
		require.NoError(t, unix.Prlimit(b.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}, nil))
	}
	outOfRoom(t, e, b, "file too large",
		func() { limit(uint64(info.Size())) }, func() { limit(unix.RLIM_INFINITY) })
}

func TestAReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mounting a read-only file system")
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Name: "first"})
	store := e.store(b)
	require.NoError(t, store.Set(t.Context(), "k", []byte("v")))
	require.NoError(t, b.Stop())
	before, err := os.ReadFile(filepath.Join(b.DataDir, "dapr.db"))
	require.NoError(t, err)
	dir := e.Dir("read-only")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, unix.Mount(b.DataDir, dir, "", unix.MS_BIND, ""))
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	said := e.refuses(harness.BoltOptions{DataDir: dir})
	require.Contains(t, said, filepath.Join(dir, "dapr.db")+": read-only file system: a database that cannot be written cannot be served")
	after, err := os.ReadFile(filepath.Join(b.DataDir, "dapr.db"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}
