package broker

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/scene"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
	patience = 90 * time.Second
	poll     = 25 * time.Millisecond
)

// pubsubName is the component that every sidecar here loads.
const pubsubName = "pubsub"

func TestMain(m *testing.M) {
	if err := os.Setenv("GORACE", scene.RaceOptions); err != nil { // for the commands that are run
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// world is one dapr-bolt process and what is started around it; it ends with the test.
type world struct {
	*harness.Harness
	t        *testing.T
	programs scene.Programs
	bolt     *harness.Bolt
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, harness.BoltOptions{})
}

func newWorldOn(t *testing.T, opts harness.BoltOptions) *world {
	t.Helper()
	w := &world{t: t}
	w.Harness, w.bolt, w.programs = scene.Start(t, opts)
	return w
}

func (w *world) socket() string { return filepath.Join(w.bolt.SocketDir, "bolt.sock") }

// admin is what the command line uses.
func (w *world) admin() *admin.Client {
	c := admin.NewClient(filepath.Join(w.bolt.DataDir, admin.SocketName))
	w.t.Cleanup(c.Close)
	return c
}

// sidecar starts one for the app (nil: there is none); settings are those of the pub/sub.
func (w *world) sidecar(name, appID string, a *app, settings ...string) *harness.Daprd {
	w.t.Helper()
	return w.sidecarWith(name, appID, a, harness.NewComponent(pubsubName, "pubsub.bolt", settings...))
}

func (w *world) sidecarWith(name, appID string, a *app, components ...harness.Component) *harness.Daprd {
	w.t.Helper()
	resources := w.Dir("resources-" + name)
	require.NoError(w.t, harness.WriteComponents(resources, components...))
	opts := harness.DaprdOptions{Path: w.programs.Daprd, Name: name, AppID: appID, Resources: []string{resources}}
	if a != nil {
		opts.AppPort = a.port
	}
	d, err := w.StartDaprd(opts)
	require.NoError(w.t, err)
	return d
}

// ready waits until the sidecars are.
func (w *world) ready(sidecars ...*harness.Daprd) {
	w.t.Helper()
	for _, d := range sidecars {
		require.NoError(w.t, d.WaitReady(w.t.Context()))
	}
}

// publish publishes the id as the data of an event of that id.
func (w *world) publish(d *harness.Daprd, topic, id string, metadata ...string) {
	w.t.Helper()
	md := map[string]string{"cloudevent.id": id}
	for i := 0; i+1 < len(metadata); i += 2 {
		md[metadata[i]] = metadata[i+1]
	}
	require.NoError(w.t, d.Publish(w.t.Context(), pubsubName, topic, id, md))
}

// bulkEntry is one of a bulk publish, as Dapr's HTTP API has it.
type bulkEntry struct {
	ID          string            `json:"entryId"`
	Event       any               `json:"event"`
	ContentType string            `json:"contentType"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

func (w *world) bulkPublish(d *harness.Daprd, topic string, entries []bulkEntry) harness.Response {
	w.t.Helper()
	r, err := d.Call(w.t.Context(), http.MethodPost, "/v1.0/publish/bulk/"+pubsubName+"/"+topic, entries)
	require.NoError(w.t, err)
	return r
}

// topics is what `dapr-bolt topics` says.
func (w *world) topics(args ...string) (topics []pubsub.TopicStats) {
	w.t.Helper()
	require.NoError(w.t, w.bolt.Command(w.t.Context(), &topics, append([]string{"topics"}, args...)...))
	return topics
}

func (w *world) topic(name string, args ...string) pubsub.TopicStats {
	w.t.Helper()
	for _, t := range w.topics(args...) {
		if t.Topic == name {
			return t
		}
	}
	return pubsub.TopicStats{}
}

func (w *world) group(topic, group string) pubsub.GroupStats {
	w.t.Helper()
	for _, g := range w.topic(topic).Groups {
		if g.Group == group {
			return g
		}
	}
	return pubsub.GroupStats{}
}

// eventually waits for what the function requires.
func (w *world) eventually(check func(c *assert.CollectT)) {
	w.t.Helper()
	require.EventuallyWithT(w.t, check, patience, poll)
}

// streams waits until the group has so many open subscriptions to the topic.
func (w *world) streams(topic, group string, n int) {
	w.t.Helper()
	w.eventually(func(c *assert.CollectT) { require.Equal(c, n, w.group(topic, group).Streams) })
}

// settled waits until no group is owed anything: nothing more can be delivered.
func (w *world) settled() {
	w.t.Helper()
	w.eventually(func(c *assert.CollectT) {
		for _, t := range w.topics() {
			require.Zero(c, t.Delayed)
			for _, g := range t.Groups {
				require.Zero(c, g.Waiting+g.InHand+g.Delayed, "what topic %s still owes to group %s: %+v", t.Topic, g.Group, g)
			}
		}
	})
}

// deadLetters is what `dapr-bolt dead-letters list` says.
func (w *world) deadLetters(args ...string) (letters []admin.DeadLetter) {
	w.t.Helper()
	require.NoError(w.t, w.bolt.Command(w.t.Context(), &letters, append([]string{"dead-letters", "list"}, args...)...))
	return letters
}

// dead waits until there are so many dead letters.
func (w *world) dead(n int) (letters []admin.DeadLetter) {
	w.t.Helper()
	w.eventually(func(c *assert.CollectT) {
		letters = w.deadLetters("--all")
		require.Len(c, letters, n)
	})
	return letters
}

func eventID(i int) string { return fmt.Sprintf("event-%05d", i) }

func eventIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, eventID(i))
	}
	return ids
}
