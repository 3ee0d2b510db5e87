package broker

import (
	"context"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// client speaks the pluggable-component protocol with dapr-bolt, as a sidecar's pub/sub does.
type client struct {
	proto.PubSubClient
	w   *world
	ctx context.Context
}

// client connects and initializes a component; the settings are pairs of key and value. It lasts as long as the test.
func (w *world) client(component string, settings ...string) *client {
	w.t.Helper()
	conn, err := grpc.NewClient("unix://"+w.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, conn.Close()) })
	c := &client{proto.NewPubSubClient(conn), w, metadata.AppendToOutgoingContext(w.t.Context(), "x-component-instance", component)}
	properties := make(map[string]string)
	for i := 0; i+1 < len(settings); i += 2 {
		properties[settings[i]] = settings[i+1]
	}
	_, err = c.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: properties}})
	require.NoError(w.t, err)
	return c
}

func (c *client) publish(topic string, ids ...string) {
	c.w.t.Helper()
	entries := make([]*proto.BulkMessageEntry, len(ids))
	for i, id := range ids {
		entries[i] = &proto.BulkMessageEntry{EntryId: id, Event: []byte(id), Metadata: map[string]string{"eventID": id}}
	}
	r, err := c.BulkPublish(c.ctx, &proto.BulkPublishRequest{Topic: topic, Entries: entries})
	require.NoError(c.w.t, err)
	require.Empty(c.w.t, r.GetFailedEntries())
}

// consumer takes events from a stream and answers them at once.
type consumer struct {
	end  context.CancelFunc
	done chan struct{}

	mu  sync.Mutex
	ids []string
}

// consume answers each event with nack; empty: it acknowledges. It ends when it is stopped, or the stream ends.
func (c *client) consume(topic, nack string) *consumer {
	c.w.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	stream, err := c.PullMessages(ctx)
	require.NoError(c.w.t, err)
	require.NoError(c.w.t, stream.Send(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: topic}}))
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
	c.w.t.Cleanup(s.stop)
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
