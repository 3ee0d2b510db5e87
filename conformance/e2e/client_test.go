package e2e_test

import (
	"context"
	"path/filepath"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// client connects to dapr-bolt's socket for one component, as a sidecar does. It lasts as long as the test.
func (e *env) client(component string) *harness.Client {
	e.t.Helper()
	c, err := harness.Dial(filepath.Join(e.bolt.SocketDir, "bolt.sock"), component)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { require.NoError(e.t, c.Close()) })
	return c
}

// groupClient publishes and consumes as one consumer group, over the socket.
type groupClient struct {
	*harness.Client
	e *env
}

// groupClient connects and initializes a pub/sub; the settings are pairs of key and value. It lasts as long as the test.
func (e *env) groupClient(component string, settings ...string) *groupClient {
	e.t.Helper()
	c := &groupClient{e.client(component), e}
	require.NoError(e.t, c.InitPubSub(e.t.Context(), settings...))
	return c
}

func (c *groupClient) publish(topic string, ids ...string) {
	c.e.t.Helper()
	entries := make([]*proto.BulkMessageEntry, len(ids))
	for i, id := range ids {
		entries[i] = &proto.BulkMessageEntry{EntryId: id, Event: []byte(id), Metadata: map[string]string{"eventID": id}}
	}
	r, err := c.PubSub.BulkPublish(c.e.t.Context(), &proto.BulkPublishRequest{Topic: topic, Entries: entries})
	require.NoError(c.e.t, err)
	require.Empty(c.e.t, r.GetFailedEntries())
}

// consumer takes events from a stream and answers them at once.
type consumer struct {
	end  context.CancelFunc
	done chan struct{}

	mu  sync.Mutex
	ids []string
}

// consume answers each event with nack; empty: it acknowledges. It ends when it is stopped, or the stream ends.
func (c *groupClient) consume(topic, nack string) *consumer {
	c.e.t.Helper()
	ctx, cancel := context.WithCancel(c.e.t.Context())
	stream, err := c.Pull(ctx, topic)
	require.NoError(c.e.t, err)
	s := &consumer{end: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.ids = append(s.ids, string(m.GetData()))
			s.mu.Unlock()
			answer := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
			if nack != "" {
				answer.AckError = &proto.AckMessageError{Message: nack}
			}
			if stream.Send(answer) != nil {
				return
			}
		}
	}()
	c.e.t.Cleanup(s.stop)
	return s
}

func (s *consumer) stop() {
	s.end()
	<-s.done
}

// received are the ids of the events so far, in order.
func (s *consumer) received() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ids...)
}
