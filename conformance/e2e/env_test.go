package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
	patience = 5 * time.Minute
	poll     = 25 * time.Millisecond
)

// The names of the components that every sidecar here loads.
const (
	storeName  = "store"
	pubsubName = "pubsub"
)

// TestMain runs the tests, or, in a process that a test has started, the app that the test is about.
func TestMain(m *testing.M) {
	if os.Getenv(appVariable) != "" {
		os.Exit(runApp())
	}
	if err := os.Setenv("GORACE", harness.RaceOptions); err != nil { // for the commands that are run
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// env is one dapr-bolt process and what is started around it; it ends with the test.
type env struct {
	*harness.Harness
	t        *testing.T
	programs harness.Programs
	bolt     *harness.Bolt
}

func newEnv(t *testing.T) *env {
	t.Helper()
	return newEnvOn(t, harness.BoltOptions{})
}

func newEnvOn(t *testing.T, opts harness.BoltOptions) *env {
	t.Helper()
	e := &env{t: t}
	e.Harness, e.bolt, e.programs = harness.Start(t, opts)
	return e
}

// in is the same environment for a sub-test.
func (e *env) in(t *testing.T) *env {
	same := *e
	same.t = t
	return &same
}

// restart is what a supervisor does after a crash.
func (e *env) restart() {
	e.t.Helper()
	e.bolt.Kill()
	require.NoError(e.t, e.bolt.Restart(e.t.Context()))
}

func storeComponent(settings ...string) harness.Component {
	return harness.NewComponent(storeName, "state.bolt", settings...)
}

func pubsubComponent(settings ...string) harness.Component {
	return harness.NewComponent(pubsubName, "pubsub.bolt", settings...)
}

// sidecar starts one for the app (nil: there is none) with both components; settings are those of the pub/sub.
func (e *env) sidecar(name, appID string, a *app, settings ...string) *harness.Daprd {
	e.t.Helper()
	opts := harness.DaprdOptions{Name: name, AppID: appID}
	if a != nil {
		opts.AppPort = a.port
	}
	return e.daprd(opts, storeComponent(), pubsubComponent(settings...))
}

// daprd starts a sidecar with the components; what options leave open is filled in.
func (e *env) daprd(opts harness.DaprdOptions, components ...harness.Component) *harness.Daprd {
	e.t.Helper()
	opts.Path = e.programs.Daprd
	if opts.AppID == "" {
		opts.AppID = "app"
	}
	if opts.Name == "" {
		opts.Name = opts.AppID + "-daprd"
	}
	resources := e.Dir("resources-" + opts.Name)
	require.NoError(e.t, harness.WriteComponents(resources, components...))
	opts.Resources = []string{resources}
	opts.Args = append([]string{"--max-body-size", "16Mi"}, opts.Args...)
	d, err := e.StartDaprd(opts)
	require.NoError(e.t, err)
	return d
}

// ready waits until the sidecars are.
func (e *env) ready(sidecars ...*harness.Daprd) {
	e.t.Helper()
	for _, d := range sidecars {
		require.NoError(e.t, d.WaitReady(e.t.Context()))
	}
}

// call sends a request to the sidecar's HTTP API.
func (e *env) call(d *harness.Daprd, method, path string, body any, headers ...string) harness.Response {
	e.t.Helper()
	r, err := d.Call(e.t.Context(), method, path, body, headers...)
	require.NoError(e.t, err)
	return r
}

// dial connects to the sidecar's gRPC API, as an app does.
func (e *env) dial(d *harness.Daprd) *grpc.ClientConn {
	e.t.Helper()
	conn, err := grpc.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(d.GRPCPort)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sdk is the client that Dapr's Go SDK makes for an app.
func (e *env) sdk(d *harness.Daprd) dapr.Client {
	e.t.Helper()
	return dapr.NewClientWithConnection(e.dial(d))
}

// api is the sidecar's gRPC API without an SDK.
func (e *env) api(d *harness.Daprd) runtime.DaprClient {
	e.t.Helper()
	return runtime.NewDaprClient(e.dial(d))
}

// publish publishes the id as the data of an event of that id; metadata are pairs of key and value.
func (e *env) publish(d *harness.Daprd, topic, id string, metadata ...string) {
	e.t.Helper()
	md := harness.Pairs(metadata)
	md["cloudevent.id"] = id
	require.NoError(e.t, d.Publish(e.t.Context(), pubsubName, topic, id, md))
}

// bulkEntry is one of a bulk publish, as Dapr's HTTP API has it.
type bulkEntry struct {
	ID          string            `json:"entryId"`
	Event       any               `json:"event"`
	ContentType string            `json:"contentType"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

func (e *env) bulkPublish(d *harness.Daprd, topic string, entries []bulkEntry) harness.Response {
	e.t.Helper()
	return e.call(d, http.MethodPost, "/v1.0/publish/bulk/"+pubsubName+"/"+topic, entries)
}

// bulk publishes events by their ids.
func (e *env) bulk(d *harness.Daprd, topic string, ids []string) {
	e.t.Helper()
	entries := make([]bulkEntry, len(ids))
	for i, id := range ids {
		entries[i] = bulkEntry{ID: id, Event: id, ContentType: "application/json", Metadata: map[string]string{"cloudevent.id": id}}
	}
	require.NoError(e.t, e.bulkPublish(d, topic, entries).OK())
}

func eventID(i int) string { return fmt.Sprintf("event-%05d", i) }

func eventIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, eventID(i))
	}
	return ids
}

// admin is what the command line uses.
func (e *env) admin() *admin.Client {
	c := admin.NewClient(filepath.Join(e.bolt.DataDir, admin.SocketName))
	e.t.Cleanup(c.Close)
	return c
}

// topics is what `dapr-bolt topics` says.
func (e *env) topics(args ...string) (topics []pubsub.TopicStats) {
	e.t.Helper()
	require.NoError(e.t, e.bolt.Command(e.t.Context(), &topics, append([]string{"topics"}, args...)...))
	return topics
}

func (e *env) topic(name string, args ...string) pubsub.TopicStats {
	e.t.Helper()
	for _, t := range e.topics(args...) {
		if t.Topic == name {
			return t
		}
	}
	return pubsub.TopicStats{}
}

func (e *env) group(topic, group string) pubsub.GroupStats {
	e.t.Helper()
	for _, g := range e.topic(topic).Groups {
		if g.Group == group {
			return g
		}
	}
	return pubsub.GroupStats{}
}

// eventually waits for what the check asks for.
func (e *env) eventually(check func(c *assert.CollectT)) {
	e.t.Helper()
	require.EventuallyWithT(e.t, check, patience, poll)
}

// streams waits until the group has so many open subscriptions to the topic.
func (e *env) streams(topic, group string, n int) {
	e.t.Helper()
	e.eventually(func(c *assert.CollectT) { require.Equal(c, n, e.group(topic, group).Streams) })
}

// settled waits until nothing more can be delivered.
func (e *env) settled() {
	e.t.Helper()
	e.eventually(func(c *assert.CollectT) { require.NoError(c, e.owes()) })
}

// owes says what is still to be delivered; nil: nothing.
func (e *env) owes() error {
	var topics []pubsub.TopicStats
	if err := e.bolt.Command(e.t.Context(), &topics, "topics"); err != nil {
		return err
	}
	var owed []error
	for _, t := range topics {
		if t.Delayed > 0 {
			owed = append(owed, fmt.Errorf("topic %s holds %d events back", t.Topic, t.Delayed))
		}
		for _, g := range t.Groups {
			if owes(g) > 0 {
				owed = append(owed, fmt.Errorf("topic %s still owes to group %s: %+v", t.Topic, g.Group, g))
			}
		}
	}
	return errors.Join(owed...)
}

// owes counts the events that may still be delivered to the group.
func owes(g pubsub.GroupStats) uint64 { return g.Waiting + g.InFlight + g.Retrying }

// deadLetters is what `dapr-bolt dead-letters list` says.
func (e *env) deadLetters(args ...string) []admin.DeadLetter {
	e.t.Helper()
	letters, err := e.bolt.DeadLetters(e.t.Context(), args...)
	require.NoError(e.t, err)
	return letters
}

// dead waits until there are so many dead letters.
func (e *env) dead(n int) (letters []admin.DeadLetter) {
	e.t.Helper()
	e.eventually(func(c *assert.CollectT) {
		letters = e.deadLetters("--all")
		require.Len(c, letters, n)
	})
	return letters
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
