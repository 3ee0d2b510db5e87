package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// app is a service that is subscribed to one topic. Its channel has the ids of the events that it got.
func app(t *testing.T, port int) <-chan string {
	t.Helper()
	got := make(chan string, 100)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `[{"pubsubname":"pubsub","topic":"orders","route":"/orders"}]`)
	})
	mux.HandleFunc("POST /orders", func(_ http.ResponseWriter, r *http.Request) {
		var event struct {
			Data string `json:"data"`
		}
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			t.Errorf("an event that cannot be read: %v", err)
		}
		got <- event.Data
	})
	listener, err := harness.Listen(t.Context(), port)
	require.NoError(t, err)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-served
	})
	return got
}

func receives(t *testing.T, got <-chan string, want string, within time.Duration) {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		select {
		case id := <-got:
			if id == want {
				return
			}
		case <-timeout.C:
			require.FailNow(t, "the app did not get the event", "%s, within %s", want, within)
		}
	}
}

// In a Pod, nothing but the end of the sidecar brings its subscriptions back: dapr-bolt asks for it, and the kubelet,
// whose part the test plays, starts it afresh.
func TestRestartSidecarBringsSubscriptionsBack(t *testing.T) {
	t.Parallel()
	const token = "sesame"
	e := newEnv(t)
	sidecarPort, err := e.FreePort()
	require.NoError(t, err)
	appPort, err := e.FreePort()
	require.NoError(t, err)
	got := app(t, appPort)
	bolt := e.bolt(harness.BoltOptions{
		Args: []string{"--restart-sidecar", fmt.Sprintf("http://127.0.0.1:%d", sidecarPort)},
		Env:  []string{"DAPR_API_TOKEN=" + token},
	})
	resources := e.Dir("resources")
	require.NoError(t, harness.WriteComponents(resources, harness.NewComponent("pubsub", "pubsub.bolt")))
	c, err := checkout()
	require.NoError(t, err)
	daprdPath, err := c.Daprd(t.Context())
	require.NoError(t, err)
	sidecar, err := e.StartDaprd(harness.DaprdOptions{
		Path: daprdPath, AppID: "shop", AppPort: appPort, Resources: []string{resources}, HTTPPort: sidecarPort,
		Env: []string{"DAPR_API_TOKEN=" + token},
	})
	require.NoError(t, err)
	require.NoError(t, sidecar.WaitReady(t.Context()))

	publish := func(id string) {
		t.Helper()
		publisher := e.pubsub(bolt, "publisher")
		event := fmt.Sprintf(`{"specversion":"1.0","type":"x","source":"test","id":%q,"datacontenttype":"text/plain","data":%q}`, id, id)
		require.NoError(t, publisher.Publish(t.Context(), "orders", id, []byte(event)))
	}
	publish("before")
	receives(t, got, "before", patience)

	for life := range 3 {
		firstSidecar := sidecar.PID()
		bolt.Kill()
		began := time.Now()
		require.NoError(t, bolt.Restart(t.Context()))
		id := fmt.Sprintf("after-kill-%d", life)
		publish(id)
		select {
		case <-sidecar.Done():
		case <-time.After(patience):
			require.FailNow(t, "the sidecar was not asked to end", logOf(t, bolt))
		}
		ended := time.Since(began)
		require.NoError(t, sidecar.Start(), "what the kubelet does")
		receives(t, got, id, patience)
		took := time.Since(began)
		fmt.Printf("sidecar %d ended %s after dapr-bolt was started again, and the app had its event after %s\n",
			firstSidecar, ended.Round(time.Millisecond), took.Round(time.Millisecond))
		require.NoError(t, sidecar.WaitReady(t.Context()))
	}
}
