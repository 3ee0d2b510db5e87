package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	oldest := time.Unix(1700000000, 0)
	broker := &fakeBroker{stats: []pubsub.TopicStats{{
		Topic: "orders", Stored: 3, Delayed: 4, Bytes: 512, LastSequence: 9, OldestTime: &oldest, Duplicates: 5,
		Groups: []pubsub.GroupStats{{Group: "app", Waiting: 1, InFlight: 2, Retrying: 6, Dead: 7, OldestTime: &oldest, Streams: 8}},
	}}}
	registry, err := NewRegistry(&fakeBackend{broker: broker}, "v1")
	require.NoError(t, err)
	var problem error
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
	status, _ = request(t, http.MethodGet, base+pathTopics)
	require.Equal(t, http.StatusNotFound, status, "the admin socket's calls are not here")

	status, body = request(t, http.MethodGet, base+"/metrics")
	require.Equal(t, http.StatusOK, status)
	for _, want := range []string{
		"go_goroutines ",
		`dapr_bolt_build_info{goversion="`,
		`dapr_bolt_database_size_bytes{database="dapr"} 4096`,
		`dapr_bolt_topic_events{bucket="pubsub",database="dapr",topic="orders"} 3`,
		`dapr_bolt_topic_delayed_events{bucket="pubsub",database="dapr",topic="orders"} 4`,
		`dapr_bolt_topic_bytes{bucket="pubsub",database="dapr",topic="orders"} 512`,
		`dapr_bolt_topic_oldest_event_timestamp_seconds{bucket="pubsub",database="dapr",topic="orders"} 1.7e+09`,
		`dapr_bolt_topic_published_events_total{bucket="pubsub",database="dapr",topic="orders"} 9`,
		`dapr_bolt_topic_duplicates_total{bucket="pubsub",database="dapr",topic="orders"} 5`,
		`dapr_bolt_group_waiting_events{bucket="pubsub",database="dapr",group="app",topic="orders"} 1`,
		`dapr_bolt_group_in_flight_events{bucket="pubsub",database="dapr",group="app",topic="orders"} 2`,
		`dapr_bolt_group_retrying_events{bucket="pubsub",database="dapr",group="app",topic="orders"} 6`,
		`dapr_bolt_group_dead_letters{bucket="pubsub",database="dapr",group="app",topic="orders"} 7`,
		`dapr_bolt_group_oldest_event_timestamp_seconds{bucket="pubsub",database="dapr",group="app",topic="orders"} 1.7e+09`,
		`dapr_bolt_group_streams{bucket="pubsub",database="dapr",group="app",topic="orders"} 8`,
	} {
		require.Contains(t, body, want)
	}

	broker.err = errors.New("cannot count")
	status, body = request(t, http.MethodGet, base+"/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "go_goroutines ", "what cannot be counted fails alone")
	require.NotContains(t, body, "dapr_bolt_topic_events{")

	_, err = ListenHealth(t.Context(), HealthOptions{Addr: h.Addr(), Metrics: registry})
	require.ErrorContains(t, err, h.Addr()+": another process listens there")
}
