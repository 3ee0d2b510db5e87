package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func request(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestHealth(t *testing.T) {
	d := newData(t)
	d.dies("orders", "0123456789")
	for range 3 {
		d.publish("orders", "0123456789")
	}
	d.publish("orders", "0123456789", func(m *pubsub.Message) { m.EventID = "event-2" })
	d.publish("orders", "later", func(m *pubsub.Message) { m.DeliverAt = time.Now().Add(time.Hour) })
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders", MaxAckPending: 1, BackOff: pubsub.BackOff{time.Hour}})
	d.next(sub).Nack("again")
	d.next(sub)
	var problem error
	registry := newRegistry(t, d, func() databases.Health { return databases.Health{Err: problem} })
	h, err := ListenHealth(t.Context(), HealthOptions{
		Addr: "127.0.0.1:0", Ready: func(context.Context) error { return problem }, Metrics: registry,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, h.Stop(context.Background()))
	})
	base := "http://" + h.Addr()

	status, body := request(t, http.MethodGet, base+"/readyz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
	problem = errors.New("database dapr: disk on fire")
	status, body = request(t, http.MethodGet, base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "database dapr: disk on fire\n", body)
	status, _ = request(t, http.MethodGet, base+"/healthz")
	require.Equal(t, http.StatusOK, status, "the process is up, ready or not")
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		status, _ = request(t, http.MethodPost, base+path)
		require.Equal(t, http.StatusMethodNotAllowed, status)
	}
	status, _ = request(t, http.MethodGet, base+CallTopics.path)
	require.Equal(t, http.StatusNotFound, status, "the admin socket's calls are not here")

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		status, body := request(t, http.MethodGet, base+"/metrics")
		require.Equal(c, http.StatusOK, status)
		const topic = `{bucket="pubsub",database="dapr",topic="orders"} `
		const group = `{bucket="pubsub",database="dapr",group="app",topic="orders"} `
		for _, want := range []string{
			"go_goroutines ",
			`dapr_bolt_build_info{goversion="`,
			`dapr_bolt_database_size_bytes{database="dapr"} `,
			`dapr_bolt_database_commits_total{database="dapr"} `,
			`dapr_bolt_database_recoveries_total{database="dapr"} 0`,
			"dapr_bolt_topic_events" + topic,
			"dapr_bolt_topic_delayed_events" + topic + "1",
			"dapr_bolt_topic_bytes" + topic,
			"dapr_bolt_topic_oldest_event_timestamp_seconds" + topic + "1.",
			"dapr_bolt_topic_last_sequence" + topic + "4",
			"dapr_bolt_topic_published_total" + topic + "5",
			"dapr_bolt_topic_duplicates_total" + topic + "1",
			"dapr_bolt_group_waiting_events" + group + "1",
			"dapr_bolt_group_in_flight_events" + group + "1",
			"dapr_bolt_group_retrying_events" + group + "1",
			"dapr_bolt_group_dead_letters" + group + "1",
			"dapr_bolt_group_oldest_event_timestamp_seconds" + group + "1.",
			"dapr_bolt_group_streams" + group + "1",
			"dapr_bolt_group_delivered_total" + group + "4",
			"dapr_bolt_group_redelivered_total" + group + "1",
			"dapr_bolt_group_acknowledged_total" + group + "0",
			"dapr_bolt_group_failed_total" + group + "3",
			`dapr_bolt_group_dead_lettered_total{bucket="pubsub",database="dapr",group="app",reason="max-deliver",topic="orders"} 1`,
			`dapr_bolt_group_dead_lettered_total{bucket="pubsub",database="dapr",group="app",reason="max-age",topic="orders"} 0`,
		} {
			require.Contains(c, body, want)
		}
	}, waitLong, time.Millisecond)

	require.NoError(t, d.manager.Close(t.Context()))
	status, body = request(t, http.MethodGet, base+"/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "go_goroutines ", "what cannot be counted fails alone")
	require.NotContains(t, body, "dapr_bolt_topic_events{")

	_, err = ListenHealth(t.Context(), HealthOptions{Addr: h.Addr(), Metrics: registry})
	require.ErrorContains(t, err, h.Addr()+": another process listens there")
}
