package component

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (h *house) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// Sidecars dial again after a restart, but do not call Init again.
func TestInitSurvivesARestart(t *testing.T) {
	h := newHouse(t)
	require.NoError(t, h.store("store", "bucket", "mine").set("k", "v"))
	require.NoError(t, h.bus("bus", "consumerID", "app", "bucket", "mine").publish("t", "1"))
	h.restart()

	c := h.dial("store")
	require.Equal(t, "v", c.get(t, "k"))
	require.NoError(t, c.set("k", "w"))
	c = h.dial("bus")
	require.NoError(t, c.publish("t", "2"))
	s := c.pull(t, "t")
	require.Equal(t, "1", string(s.next().GetData()))
	require.Equal(t, "2", string(s.next().GetData()))
	_, err := c.pubsub.Pause(c.ctx, &proto.PauseRequest{})
	require.NoError(t, err)

	info, err := os.Stat(filepath.Join(h.dir, "data", rememberedFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestCallsWithoutInit(t *testing.T) {
	h := newHouse(t)
	c := h.dial("a")
	_, pingErr := c.pubsub.Ping(c.ctx, &proto.PingRequest{})
	_, pullErr := c.pull(t, "t").Recv()
	for _, err := range []error{c.set("k", "v"), c.publish("t", "1"), pingErr, pullErr} {
		require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
		require.ErrorContains(t, err, "restart the sidecar")
	}
}

// Sidecars that cannot be told apart are served as far as it makes no difference which one calls.
func TestCallsOfSidecarsThatCannotBeToldApart(t *testing.T) {
	h := newHouse(t)
	gone := process{PID: 1 << 30, Start: 1}
	remember := func(k kind, component string, properties ...string) {
		// What lives cannot be forgotten, and what is not known neither.
		require.NoError(t, h.server.remembered.put(instance{Kind: k, Component: component, Properties: pairs(properties)}))
	}
	remember(kindState, "alike", "bucket", "x")
	remember(kindState, "alike", "Bucket", "x", "scopes", "other words for the same")
	remember(kindState, "different", "bucket", "x")
	remember(kindState, "different", "bucket", "y")
	remember(kindPubSub, "groups", "consumerID", "a")
	remember(kindPubSub, "groups", "consumerID", "b")
	remember(kindPubSub, "different", "consumerID", "a", "dedupBy", "data")
	remember(kindPubSub, "different", "consumerID", "a", "dedupBy", "none")

	require.NoError(t, h.dial("alike").set("k", "v"))
	require.Equal(t, "v", h.store("a", "bucket", "x").get(t, "k"))
	groups, different := h.dial("groups"), h.dial("different")
	require.NoError(t, groups.publish("t", "1"))
	_, pullErr := groups.pull(t, "t").Recv()
	_, pauseErr := groups.pubsub.Pause(groups.ctx, &proto.PauseRequest{})
	for _, err := range []error{different.set("k", "v"), different.publish("t", "1"), pullErr, pauseErr} {
		require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
		require.ErrorContains(t, err, "restart the sidecar")
	}

	// The one whose process is known is told apart; this test is its own sidecar.
	h.bus("groups", "consumerID", "me")
	c := h.dial("groups")
	c.pull(t, "t").next()
	require.NotZero(t, groupStats(t, h, "t", "me").InHand)

	require.NoError(t, h.server.remembered.put(instance{Kind: kindState, Component: "gone", Sidecar: gone, Properties: pairs([]string{"bucket", "x"})}))
	require.Equal(t, "v", h.dial("gone").get(t, "k"), "the newest of a component is kept")
}

func TestRememberedIsBounded(t *testing.T) {
	dir := t.TempDir()
	r, err := recall(dir, clockwork.NewFakeClock(), testLogger(t))
	require.NoError(t, err)
	self := process{PID: os.Getpid(), Start: processStart(os.Getpid())}
	require.True(t, self.alive())

	// A sidecar that has ended is forgotten when another has initialized the component.
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, sleeper.Start())
	other := process{PID: sleeper.Process.Pid, Start: processStart(sleeper.Process.Pid)}
	require.True(t, other.alive())
	require.NoError(t, r.put(instance{Kind: kindState, Component: "c", Sidecar: other, Properties: map[string]string{"bucket": "other"}}))
	require.NoError(t, r.put(instance{Kind: kindState, Component: "c", Sidecar: self, Properties: map[string]string{"bucket": "old"}}))
	require.Len(t, r.instances, 2)
	require.Equal(t, "other", r.find(kindState, "c", other)[0].Properties["bucket"])
	require.NoError(t, sleeper.Process.Kill())
	_ = sleeper.Wait()
	require.False(t, other.alive())
	require.NoError(t, r.put(instance{Kind: kindState, Component: "c", Sidecar: self, Properties: map[string]string{"bucket": "new"}}))
	require.Len(t, r.instances, 1, "neither the dead one nor what was said before")

	for i := range maxRemembered + 10 {
		require.NoError(t, r.put(instance{Kind: kindPubSub, Component: fmt.Sprint(i)}))
	}
	require.Len(t, r.instances, maxRemembered)
	require.Empty(t, r.find(kindPubSub, "9", self))
	require.Len(t, r.find(kindPubSub, "10", self), 1)

	again, err := recall(dir, clockwork.NewFakeClock(), testLogger(t))
	require.NoError(t, err)
	require.Equal(t, r.instances, again.instances)
}

func TestADamagedRecordIsReportedAndBegunAnew(t *testing.T) {
	for name, content := range map[string]string{"damaged": "{", "of another version": `{"version":99,"instances":[{}]}`} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, rememberedFile), []byte(content), 0o600))
		log := testLogger(t)
		r, err := recall(dir, clockwork.NewFakeClock(), log)
		require.NoError(t, err)
		require.Empty(t, r.instances)
		require.Contains(t, log.Handler().(*testHandler).text.String(), name)
		require.NoError(t, r.put(instance{Kind: kindState, Component: "c"}))
	}
}

func FuzzRecall(f *testing.F) {
	f.Add([]byte(`{"version":1,"instances":[{"kind":"state","component":"c","properties":{"a":"b"},"sidecar":{"pid":1,"start":2}}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, rememberedFile), data, 0o600))
		r, err := recall(dir, clockwork.NewFakeClock(), testLogger(t))
		require.NoError(t, err)
		r.find(kindState, "c", process{})
		require.NoError(t, r.put(instance{Kind: kindState, Component: "c"}))
	})
}
