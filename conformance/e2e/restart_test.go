package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// Under `dapr-bolt dev`, the subscriptions of sidecars that still run come back after a kill, with nothing to be set or done.
func TestSubscriptionsComeBackUnderDev(t *testing.T) {
	t.Parallel()
	h := harness.ForTest(t)
	programs, err := harness.TestPrograms()
	require.NoError(t, err)
	components := h.Dir("components")
	bolt := harness.StartBolt(t, h, harness.BoltOptions{Path: programs.Bolt, Args: []string{"dev", "--components", components}})
	e := &env{Harness: h, t: t, programs: programs, bolt: bolt}
	a := e.app(nil, subscribe("orders"))
	d, err := e.StartDaprd(harness.DaprdOptions{Path: programs.Daprd, AppID: "app", AppPort: a.port, Resources: []string{components}})
	require.NoError(t, err)
	e.ready(d)
	e.publish(d, "orders", "before")
	a.wait(1)
	e.restart()
	e.publish(d, "orders", "after")
	e.eventually(func(c *assert.CollectT) { require.Contains(c, a.ids(), "after") })
}

// An app that is killed while its sidecar lives, without a health check and with all defaults, still gets its events once it
// is back.
func TestAnAppThatIsAwayLosesNothing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	a := e.app(nil, subscribe("orders"))
	d := e.sidecar("app", "app", a)
	e.ready(d)
	a.stop()
	e.publish(d, "orders", "1")
	e.eventually(func(c *assert.CollectT) { require.Equal(c, uint64(1), e.group("orders", "app").Retrying) })
	require.Empty(t, e.deadLetters("--all"))
	a.start()
	require.GreaterOrEqual(t, a.wait(1)[0].count(), 2)
	e.settled()
}
