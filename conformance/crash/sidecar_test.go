package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// sidecar is a daprd in front of a dapr-bolt. A call that is made while it is not there waits; one that was under way when it
// was killed fails.
type sidecar struct {
	*harness.Daprd
	api runtime.DaprClient
}

// startSidecar starts one for as long as the test runs; appPort 0: it has no app.
func startSidecar(t *testing.T, h *harness.Harness, bolt *harness.Bolt, appPort int, components ...harness.Component) *sidecar {
	t.Helper()
	path, err := harness.DaprdProgram()
	require.NoError(t, err)
	appID, resources := "app-of-"+bolt.Name(), resourcesOf(h, bolt.Name())
	for i := range components {
		components[i].Spec.InitTimeout = "1m"
	}
	require.NoError(t, harness.WriteComponents(resources, components...))
	daprd, err := h.StartDaprd(harness.DaprdOptions{
		Path: path, AppID: appID, AppPort: appPort, Resources: []string{resources}, SocketDir: bolt.SocketDir, LogLevel: "error",
	})
	require.NoError(t, err)
	require.NoError(t, daprd.WaitReady(t.Context()))
	conn, err := grpc.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(daprd.GRPCPort)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: harness.Redial, Multiplier: 1, MaxDelay: harness.Redial}, MinConnectTimeout: patience}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return &sidecar{daprd, runtime.NewDaprClient(conn)}
}

// resourcesOf is the folder with the components of the sidecar of a dapr-bolt.
func resourcesOf(h *harness.Harness, bolt string) string { return h.Dir(bolt + "-resources") }

// resubscribing is the flag with which a dapr-bolt brings the groups of its sidecar back after it was killed.
func resubscribing(h *harness.Harness, bolt string) []string {
	var files []string
	for group := range eventGroups {
		files = append(files, filepath.Join(resourcesOf(h, bolt), group+".yaml"))
	}
	return []string{"--resubscribe", strings.Join(files, ",")}
}

// killed kills it, and starts it again once meanwhile has been done.
func (s *sidecar) killed(t *testing.T, meanwhile func()) {
	s.Kill()
	meanwhile()
	require.NoError(t, s.Start())
	require.NoError(t, s.WaitReady(t.Context()))
}

// publish publishes an event as it is, without an envelope. It does not wait for a sidecar that is not there: others are.
func (s *sidecar) publish(ctx context.Context, r *proto.PublishRequest) error {
	metadata := map[string]string{"rawPayload": "true"}
	for key, value := range r.GetMetadata() {
		metadata[key] = value
	}
	_, err := s.api.PublishEvent(context.WithoutCancel(ctx), &runtime.PublishEventRequest{
		PubsubName: publishers, Topic: r.GetTopic(), Data: r.GetData(), Metadata: metadata,
	}, grpc.WaitForReady(false))
	return err
}

// stateSidecar is the store behind a sidecar, in its component "store".
type stateSidecar struct {
	*sidecar
	round int
	// answered counts the calls that were not cut off.
	answered atomic.Int64
}

// do implements store.
func (s *stateSidecar) do(ctx context.Context, c call) (a answer, err error) {
	for {
		a, err = s.try(ctx, c)
		// Nothing was sent: dapr-bolt is not there, or the sidecar has not noticed yet that it is again.
		if err == nil || !strings.Contains(status.Convert(err).Message(), "Error while dialing") {
			break
		}
		pause(ctx, harness.Redial)
	}
	said := status.Convert(err)
	switch {
	case err == nil:
		s.answered.Add(1)
		return a, nil
	case said.Code() == codes.Unavailable, strings.Contains(said.Message(), "code = Unavailable"):
		return a, err
	// A sidecar tells of refused transactions by their text alone.
	case said.Code() == codes.Aborted, strings.Contains(said.Message(), "code = FailedPrecondition"):
		return answer{refused: true}, nil
	}
	return a, fmt.Errorf("%w: %w", errBroken, err)
}

func (s *stateSidecar) try(ctx context.Context, c call) (a answer, err error) {
	const storeName = "store"
	switch {
	case len(c.reads) == 1:
		var got *runtime.GetStateResponse
		if got, err = s.api.GetState(ctx, &runtime.GetStateRequest{StoreName: storeName, Key: name(s.round, c.group, c.reads[0])}); err == nil {
			a.values, a.etags = []string{string(got.GetData())}, []string{got.GetEtag()}
		}
	case c.reads != nil:
		request := &runtime.GetBulkStateRequest{StoreName: storeName}
		for _, key := range c.reads {
			request.Keys = append(request.Keys, name(s.round, c.group, key))
		}
		var got *runtime.GetBulkStateResponse
		if got, err = s.api.GetBulkState(ctx, request); err == nil {
			for i, item := range got.GetItems() {
				if item.GetKey() != request.Keys[i] || item.GetError() != "" {
					return a, fmt.Errorf("item %d: %v", i, item)
				}
				a.values, a.etags = append(a.values, string(item.GetData())), append(a.etags, item.GetEtag())
			}
		}
	case len(c.changes) > 1:
		request := &runtime.ExecuteStateTransactionRequest{StoreName: storeName}
		for _, change := range c.changes {
			operation := "upsert"
			if change.delete {
				operation = "delete"
			}
			request.Operations = append(request.Operations, &runtime.TransactionalStateOperation{OperationType: operation, Request: s.item(c.group, change)})
		}
		_, err = s.api.ExecuteStateTransaction(ctx, request)
	case c.changes[0].delete:
		item := s.item(c.group, c.changes[0])
		_, err = s.api.DeleteState(ctx, &runtime.DeleteStateRequest{StoreName: storeName, Key: item.GetKey(), Etag: item.GetEtag()})
	default:
		_, err = s.api.SaveState(ctx, &runtime.SaveStateRequest{StoreName: storeName, States: []*common.StateItem{s.item(c.group, c.changes[0])}})
	}
	return a, err
}

func (s *stateSidecar) item(group int, c change) *common.StateItem {
	item := &common.StateItem{Key: name(s.round, group, c.key)}
	if !c.delete {
		item.Value = []byte(c.value)
	}
	switch c.when {
	case ifMatch:
		item.Etag = &common.Etag{Value: c.etag}
	case ifAbsent:
		item.Options = &common.StateOptions{Concurrency: common.StateOptions_CONCURRENCY_FIRST_WRITE}
	}
	return item
}

// eventApp is an app inside the test that consumes as every group, through a sidecar of its own. The pub/sub component of a
// group has its name.
type eventApp struct {
	cluster *eventCluster
	sidecar *sidecar

	mu sync.Mutex
	// done counts the events that have come through the sidecar, by group, and those that were published there, by publishers.
	done map[string]int
}

// publishers is the component that events are published to.
const publishers = "publishers"

func (c *eventCluster) startApp(h *harness.Harness, bolt *harness.Bolt) *eventApp {
	app := &eventApp{cluster: c, done: map[string]int{}}
	server := httptest.NewServer(app)
	c.t.Cleanup(server.Close)
	components := []harness.Component{harness.NewComponent(publishers, "pubsub.bolt", c.settings(publishers)...)}
	for name, group := range eventGroups {
		settings := append(c.settings(name, group.settings...), "resubscribed", "never")
		components = append(components, harness.NewComponent(name, "pubsub.bolt", settings...))
	}
	app.sidecar = startSidecar(c.t, h, bolt, server.Listener.Addr().(*net.TCPAddr).Port, components...)
	return app
}

// ServeHTTP implements http.Handler: what a sidecar asks an app.
func (a *eventApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	group := strings.TrimPrefix(r.URL.Path, "/events/")
	switch {
	case r.URL.Path == "/dapr/subscribe":
		type subscription struct {
			PubSub   string            `json:"pubsubname"`
			Topic    string            `json:"topic"`
			Route    string            `json:"route"`
			Metadata map[string]string `json:"metadata"`
		}
		var all []subscription
		for name, group := range eventGroups {
			all = append(all, subscription{name, group.topic, "/events/" + name, map[string]string{"rawPayload": "true"}})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all)
	case eventGroups[group].topic == "":
		http.NotFound(w, r)
	default:
		var event struct {
			Data []byte `json:"data_base64"`
		}
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError) // it was killed while it sent the event
			return
		}
		handled, err := a.cluster.deliver(group, event.Data, r.Header.Get("sequence"), r.Header.Get("deliveryCount"))
		if err != nil {
			a.cluster.fail(fmt.Errorf("a sidecar delivers to %s: %w", group, err))
		}
		a.count(group)
		if !handled {
			http.Error(w, eventFailure, http.StatusInternalServerError)
		}
	}
}

func (a *eventApp) publish(ctx context.Context, r *proto.PublishRequest) error {
	err := a.sidecar.publish(ctx, r)
	if err == nil {
		a.count(publishers)
	}
	return err
}

func (a *eventApp) count(component string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[component]++
}

func (a *eventApp) counts() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.done)
}

// goesOn waits until another event was published through the sidecar, and each group has got one: no subscription has ended.
func (a *eventApp) goesOn() {
	before := a.counts()
	a.cluster.eventually(func() string {
		now := a.counts()
		for _, component := range append(slices.Collect(maps.Keys(eventGroups)), publishers) {
			if now[component] == before[component] {
				return fmt.Sprintf("nothing goes through %s any more for %s", a.sidecar.Name(), component)
			}
		}
		return ""
	})
}

// boltSocket is where a dapr-bolt serves components.
func boltSocket(bolt *harness.Bolt) string { return filepath.Join(bolt.SocketDir, "bolt.sock") }
