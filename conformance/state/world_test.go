package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/scene"
)

const (
	// patience bounds each wait for something that must happen. It is generous: a wait that reaches it is a failure.
	patience = 120 * time.Second
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
	goleak.VerifyTestMain(m)
}

// programs are what the tests of actors need beside the others.
type programs struct {
	scene.Programs
	placement, scheduler string
}

// controlPlane builds Dapr's placement and scheduler once for all tests.
var controlPlane = sync.OnceValues(func() (p programs, err error) {
	checkout, err := build.FindCheckout()
	if err != nil {
		return p, err
	}
	ctx := context.Background()
	if p.placement, err = checkout.Placement(ctx, os.Stderr); err != nil {
		return p, err
	}
	p.scheduler, err = checkout.Scheduler(ctx, os.Stderr)
	return p, err
})

// world is one dapr-bolt process and what is started around it; it ends with the test.
type world struct {
	*harness.Harness
	t        *testing.T
	programs programs
	bolt     *harness.Bolt
}

func newWorld(t *testing.T, boltArgs ...string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	w.programs, err = controlPlane()
	require.NoError(t, err)
	w.Harness, w.bolt, w.programs.Programs = scene.Start(t, harness.BoltOptions{Args: boltArgs})
	return w
}

// sidecar starts one with a store and a pub/sub; what options leave open is filled in.
func (w *world) sidecar(opts harness.DaprdOptions, store, pubsub harness.Component) *harness.Daprd {
	w.t.Helper()
	opts.Path = w.programs.Daprd
	if opts.AppID == "" {
		opts.AppID = "app"
	}
	if opts.Name == "" {
		opts.Name = opts.AppID + "-daprd"
	}
	resources := w.Dir("resources-" + opts.Name)
	require.NoError(w.t, harness.WriteComponents(resources, store, pubsub))
	opts.Resources = []string{resources}
	opts.Args = append([]string{"--max-body-size", "16Mi"}, opts.Args...)
	d, err := w.StartDaprd(opts)
	require.NoError(w.t, err)
	return d
}

func storeComponent(settings ...string) harness.Component {
	return harness.NewComponent(storeName, "state.bolt", settings...)
}

func pubsubComponent(settings ...string) harness.Component {
	return harness.NewComponent(pubsubName, "pubsub.bolt", settings...)
}

func (w *world) ready(d *harness.Daprd) {
	w.t.Helper()
	require.NoError(w.t, d.WaitReady(w.t.Context()))
}

// restartBolt is what a supervisor does after a crash.
func (w *world) restartBolt() {
	w.t.Helper()
	w.bolt.Kill()
	require.NoError(w.t, w.bolt.Restart(w.t.Context()))
}

// dial connects to the sidecar's gRPC API, as an app does.
func (w *world) dial(d *harness.Daprd) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(d.GRPCPort)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sdk is the client that Dapr's Go SDK makes for an app.
func (w *world) sdk(d *harness.Daprd) dapr.Client {
	w.t.Helper()
	return dapr.NewClientWithConnection(w.dial(d))
}

// api is the sidecar's gRPC API without an SDK.
func (w *world) api(d *harness.Daprd) runtime.DaprClient {
	w.t.Helper()
	return runtime.NewDaprClient(w.dial(d))
}

// call sends a request to the sidecar's HTTP API.
func (w *world) call(d *harness.Daprd, method, path string, body any, headers ...string) harness.Response {
	w.t.Helper()
	r, err := d.Call(w.t.Context(), method, path, body, headers...)
	require.NoError(w.t, err)
	return r
}

// eventually waits for what the check asks for.
func (w *world) eventually(check func(c *assert.CollectT)) {
	w.t.Helper()
	require.EventuallyWithT(w.t, check, patience, poll)
}

// topic is what `dapr-bolt topics --output json` says of one.
type topic struct {
	Topic  string `json:"topic"`
	Groups []struct {
		Group   string `json:"group"`
		Waiting int    `json:"waiting"`
		InHand  int    `json:"inHand"`
		Delayed int    `json:"delayed"`
	} `json:"groups"`
}

// owes says what is still to be delivered; nil: nothing.
func (w *world) owes() error {
	var topics []topic
	if err := w.bolt.Command(w.t.Context(), &topics, "topics"); err != nil {
		return err
	}
	var owed []error
	for _, t := range topics {
		for _, g := range t.Groups {
			if g.Waiting+g.InHand+g.Delayed > 0 {
				owed = append(owed, fmt.Errorf("topic %s still owes to group %s: %+v", t.Topic, g.Group, g))
			}
		}
	}
	return errors.Join(owed...)
}

// settled waits until no group is owed anything: nothing more can be delivered.
func (w *world) settled() {
	w.t.Helper()
	w.eventually(func(c *assert.CollectT) { require.NoError(c, w.owes()) })
}
