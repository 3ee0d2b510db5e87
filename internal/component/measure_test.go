package component

import (
	"fmt"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
)

// values returns what was counted, by "name label label …", without what is zero: counters, and of histograms how many were
// observed.
func values(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.Collectors()...)
	families, err := registry.Gather()
	require.NoError(t, err)
	found := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), metrics.Prefix)
			for _, l := range metric.GetLabel() {
				if l.GetName() != "database" && l.GetName() != "bucket" {
					name += " " + l.GetValue()
				}
			}
			value := metric.GetCounter().GetValue()
			if f.GetType() == dto.MetricType_HISTOGRAM {
				value = float64(metric.GetHistogram().GetSampleCount())
			}
			if value != 0 {
				found[name] = value
			}
		}
	}
	return found
}

func TestCallsAreMeasured(t *testing.T) {
	m := metrics.New()
	h := newHouse(t, func(h *house) { h.options = func(o *Options) { o.Metrics = m } })
	c := h.store("store")
	require.NoError(t, c.set("k", "v"))
	require.Equal(t, "v", c.get(t, "k"))
	_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("w"), Etag: &proto.Etag{Value: "wrong"}})
	require.Error(t, err)
	require.Error(t, c.set("", "v"))
	_, err = c.BulkSet(c.ctx, &proto.BulkSetRequest{Items: []*proto.SetRequest{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}})
	require.NoError(t, err)
	_, err = c.BulkGet(c.ctx, &proto.BulkGetRequest{Items: []*proto.GetRequest{{Key: "a"}, {Key: "none"}}})
	require.NoError(t, err)
	_, err = c.Delete(c.ctx, &proto.DeleteRequest{Key: "a"})
	require.NoError(t, err)
	bus := h.bus("bus", "consumerID", "g")
	require.NoError(t, bus.publish("t", "event"))
	require.Error(t, bus.publish("t", "event", "ttlInSeconds", "-5"))
	require.Error(t, h.dial("nobody").set("k", "v"), "what no component answers is not counted")

	// A call is counted after its answer.
	require.Eventually(t, func() bool { return values(t, m)["publish_calls_total invalid"] == 1 }, patience, time.Millisecond)
	require.Equal(t, map[string]float64{
		"state_calls_total set ok": 1, "state_calls_total set conflict": 1, "state_calls_total set invalid": 1,
		"state_calls_total get ok": 1, "state_calls_total bulk_set ok": 1, "state_calls_total bulk_get ok": 1, "state_calls_total delete ok": 1,
		"state_call_duration_seconds set": 3, "state_call_duration_seconds get": 1, "state_call_duration_seconds delete": 1,
		"state_call_duration_seconds bulk_set": 1, "state_call_duration_seconds bulk_get": 1,
		"state_value_size_bytes get": 2, "state_value_size_bytes set": 5,
		"publish_calls_total ok": 1, "publish_calls_total invalid": 1, "publish_call_duration_seconds": 2, "published_event_size_bytes": 2,
	}, values(t, m))
	require.Equal(t, metrics.Rates{Gets: 2, Sets: 2}, m.Rates(), "the backend of this test has metrics of its own")

	limits := map[string]string{}
	for _, l := range h.server.Limits() {
		limits[l.Flag] = fmt.Sprintf("%.0f of %.0f", l.Used, l.Max)
	}
	require.Equal(t, "3 of 4096", limits["max-connections"])
	require.Equal(t, "0 of 10000", limits["max-streams"])
	require.Contains(t, limits["max-calls"], " of 32768")
	require.Contains(t, limits["max-request-bytes"], " of 268435456")
	bus.pull(t, "t")
	require.Eventually(t, func() bool { return h.server.Limits()[1].Used == 1 && h.server.Limits()[2].Used == 1 }, patience, time.Millisecond)
}
