package admin

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/reference"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

var update = flag.Bool("update", false, "write the metrics into docs/metrics.md instead of comparing them")

func newRegistry(t *testing.T, d *data, health func() databases.Health) *prometheus.Registry {
	registry, err := NewRegistry(RegistryOptions{
		Databases: d.manager, Metrics: d.metrics, Health: func(context.Context) databases.Health { return health() }, Version: "v1",
		Limits: func() []metrics.Limit { return []metrics.Limit{{Flag: "max-calls", Used: 1, Max: 10}} },
	})
	require.NoError(t, err)
	return registry
}

// TestMetricsDocument holds docs/metrics.md to the metrics, and the metrics to Prometheus' rules for their names.
func TestMetricsDocument(t *testing.T) {
	d := newData(t)
	d.metrics.State("dapr", "state").Called(metrics.Get, metrics.OK, time.Second)
	d.metrics.Publisher("dapr", "pubsub").Called(metrics.OK, time.Second)
	d.publish("orders", "x")
	d.next(d.subscribe(pubsub.SubscribeOptions{Topic: "orders"}))
	registry := newRegistry(t, d, func() databases.Health {
		return databases.Health{
			Etcd:    []databases.EtcdServer{{Endpoint: "https://etcd-0:2379"}},
			Streams: []databases.Stream{{Database: "nats-dapr-bolt", Bucket: "pubsub", Servers: map[string]bool{"nats-0": true}}},
		}
	})
	families, err := registry.Gather()
	require.NoError(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)

	var b strings.Builder
	b.WriteString("\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), metrics.Prefix) {
			continue // Go's own and the process's
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	reference.Check(t, "../../docs/metrics.md", "metrics", b.String(), *update, "go test ./internal/admin -run TestMetricsDocument -update")
}
