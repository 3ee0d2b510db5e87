package console

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func TestMain(m *testing.M) {
	if err := os.Setenv("GORACE", harness.RaceOptions); err != nil { // for the commands that are run
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// app consumes a topic as its sidecar does, and fails what it is told to.
type app struct {
	t       *testing.T
	client  *harness.Client
	failing atomic.Pointer[string]
	handled atomic.Int64
}

// startApp subscribes the group to the topic.
func startApp(t *testing.T, bolt *harness.Bolt, group, topic string, settings ...string) *app {
	t.Helper()
	client, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), group)
	require.NoError(t, err)
	require.NoError(t, client.InitPubSub(t.Context(), append([]string{"consumerID", group, "maxDeliver", "1", "maxAckPending", "1000"}, settings...)...))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := client.Pull(ctx, topic)
	require.NoError(t, err)
	a := &app{t: t, client: client}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			answer := &proto.PullMessagesRequest{AckMessageId: message.GetId()}
			if text := a.failing.Load(); text != nil {
				answer.AckError = &proto.AckMessageError{Message: *text}
			} else {
				a.handled.Add(1)
			}
			if stream.Send(answer) != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		require.NoError(t, client.Close())
	})
	return a
}

func (a *app) fail(text string) { a.failing.Store(&text) }
func (a *app) work()            { a.failing.Store(nil) }

func (a *app) publish(topic, id, data string) {
	a.t.Helper()
	require.NoError(a.t, a.client.Publish(a.t.Context(), topic, id, []byte(data)))
}
