package console

import (
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
)

func TestSparkline(t *testing.T) {
	require.Equal(t, sparkline{Name: "Sets"}, newSparkline("Sets", nil, 5, perSecond))
	require.Equal(t, sparkline{Name: "Sets", Now: "0/s", Most: "0/s", Points: "0.0,31.0 160.0,31.0", Span: "5 s"}, newSparkline("Sets", []float64{0}, 5, perSecond))
	require.Equal(t, sparkline{Name: "Sets", Now: "2.5/s", Most: "1,000/s", Points: "0.0,31.0 80.0,1.0 160.0,30.9", Span: "15 s"}, newSparkline("Sets", []float64{0, 1000, 2.5}, 5, perSecond))
	require.Equal(t, "1.3 ms", newSparkline("Commits", []float64{0.0013}, 5, milliseconds).Now)
}

// The clock is at a standstill until the test advances it.
func TestTheOverviewDrawsTheLastMinutes(t *testing.T) {
	clock := clockwork.NewFakeClock()
	e := newEnv(t, func(o *Options) { o.Clock = clock })
	require.Contains(t, e.get("/").body, "nothing measured yet")
	require.Eventually(t, func() bool {
		clock.Advance(time.Second)
		body := e.get("/").body
		return strings.Contains(body, `aria-label="Publishes in the last`) && strings.Contains(body, "<polyline")
	}, longTime, time.Millisecond)
}
