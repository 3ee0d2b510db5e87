package faults

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What requests may take that are never finished, however they are sent, and answers that are never read, is bounded, and
// others are served meanwhile.
//
// The bound is what is allowed, as much again for what was ended and is not answered yet, and twice of that, as Go lets
// memory grow before it collects; and what the honest client's own calls take.
func TestUnfinishedRequestsAreBounded(t *testing.T) {
	t.Parallel()
	const (
		allowed, calls = 16 << 20, 2000
		bound          = memoryFactor * (2*2*allowed + 64<<20)
		message        = 16 << 20
		set            = proto.StateStore_Set_FullMethodName
		pull           = proto.PubSub_PullMessages_FullMethodName
		ended          = "ended a call whose request was still arriving"
	)
	all := make([]byte, message-1)
	topic, err := googleproto.Marshal(&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "orders"}})
	require.NoError(t, err)
	for _, test := range []struct {
		name             string
		clients, streams int
		// attack is what one client does on one stream.
		attack       func(c *rawClient)
		answer, logs string
	}{
		{"all but the last byte", 4, 32, func(c *rawClient) {
			if s := c.call(set); c.claim(s, message) {
				c.send(s, all, 16<<10)
			}
		}, "too many requests at once: what is still arriving takes too much; --max-request-bytes allows no more than 16777216", ended},
		{"frames of a byte", 4, 16, func(c *rawClient) {
			if s := c.call(set); c.claim(s, message) {
				c.send(s, all[:100_000], 1)
			}
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"frames that waste their buffers", 4, 32, func(c *rawClient) {
			if s := c.call(set); c.claim(s, message) {
				c.send(s, all[:4<<20], 4<<10+1)
			}
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"nothing but headers", 8, 4000, func(c *rawClient) { c.call(set) },
			"too many calls at once: --max-calls allows no more than 2000 to be open", ended},
		{"nothing but headers, and no answer is read", 4, 16000, func(c *rawClient) {
			c.deafen()
			c.call(set)
		}, "", ended},
		{"many fields in the headers", 8, 500, func(c *rawClient) {
			fields := make([]hpack.HeaderField, 400)
			for i := range fields {
				fields[i] = hpack.HeaderField{Name: "x" + strconv.Itoa(i)}
			}
			c.call(set, fields...)
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"acknowledgements", 4, 32, func(c *rawClient) {
			if s := c.call(pull); c.claim(s, len(topic)) && c.send(s, topic, 16<<10) && c.claim(s, message) {
				c.send(s, all, 16<<10)
			}
		}, "--max-request-bytes allows no more than 16777216", ended},
		{"answers that nobody reads", 4, 64, func(c *rawClient) {
			_, _ = c.request(proto.StateStore_Get_FullMethodName, &proto.GetRequest{Key: "large"})
		}, "too many answers at once", ""},
		{"a list of headers of 1 MiB", 8, 64, func(c *rawClient) {
			fields := make([]hpack.HeaderField, 64)
			for i := range fields {
				fields[i] = hpack.HeaderField{Name: "x" + strconv.Itoa(i), Value: strings.Repeat("~", 16<<10)}
			}
			c.call(set, fields...)
		}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEnv(t)
			b := e.bolt(harness.BoltOptions{Args: []string{"--max-request-bytes", strconv.Itoa(allowed), "--max-calls", strconv.Itoa(calls)}})
			store, bus := e.store(b), e.pubsub(b, "honest")
			stream, err := bus.Pull(t.Context(), "honest")
			require.NoError(t, err)
			events := 0
			serve := func() {
				honest(t, store)
				require.NoError(t, store.Set(t.Context(), "large", make([]byte, 1<<20)))
				events++
				require.NoError(t, bus.Publish(t.Context(), "honest", strconv.Itoa(events), []byte("x")))
				m, err := stream.Recv()
				require.NoError(t, err)
				require.NoError(t, stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}))
			}
			for range 10 {
				serve()
			}
			before := e.usage(b)

			var most int64
			var clients []*rawClient
			var attacks sync.WaitGroup
			for range test.clients {
				c := newRawClient(t, b)
				clients = append(clients, c)
				require.NoError(t, initialize(c))
				begin := make(chan struct{}, 64)
				attacks.Go(func() {
					var streams sync.WaitGroup
					for range test.streams {
						begin <- struct{}{}
						streams.Go(func() {
							defer func() { <-begin }()
							test.attack(c)
						})
					}
					streams.Wait()
				})
			}
			done := make(chan struct{})
			go func() {
				attacks.Wait()
				close(done)
			}()
			served, slowest := 0, time.Duration(0)
			for over := false; !over; served++ {
				select {
				case <-done:
					over = true
				default:
				}
				began := time.Now()
				serve()
				slowest = max(slowest, time.Since(began))
				most = max(most, e.usage(b).memory)
			}
			// They stay, and finish nothing.
			for range 10 {
				serve()
				most = max(most, e.usage(b).memory)
			}
			fmt.Printf("%s: %d MiB before, %d MiB at most; an honest client was served %d times meanwhile, in %v at most\n",
				t.Name(), before.memory>>20, most>>20, served, slowest)
			require.Less(t, most-before.memory, int64(bound))
			if test.answer != "" {
				answered := 0
				for _, c := range clients {
					answered += c.answered(test.answer)
				}
				require.Positive(t, answered)
			}
			require.Contains(t, logOf(t, b), test.logs)
			for _, c := range clients {
				c.close()
			}
			e.back(b, before, bound)
			serve()
		})
	}
}

// initialize makes components on the connection, and waits until they are there, so that its calls are not refused for
// want of one.
func initialize(c *rawClient) error {
	for _, init := range []struct {
		method  string
		request googleproto.Message
	}{
		{proto.StateStore_Init_FullMethodName, &proto.InitRequest{Metadata: &proto.MetadataRequest{}}},
		{proto.PubSub_Init_FullMethodName, &proto.PubSubInitRequest{
			Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerID": "hostile"}}}},
	} {
		stream, err := c.request(init.method, init.request)
		if err != nil {
			return err
		}
		c.waitEnded(stream)
	}
	return nil
}

// request sends all of a call, and returns its stream.
func (c *rawClient) request(method string, m googleproto.Message) (stream uint32, err error) {
	raw, err := googleproto.Marshal(m)
	if err != nil {
		return 0, err
	}
	stream = c.call(method)
	if !c.claim(stream, len(raw)) || !c.send(stream, raw, 16<<10) {
		return 0, fmt.Errorf("stream %d was ended", stream)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return stream, c.framer.WriteData(stream, true, nil)
}

// waitEnded waits until the server has ended a stream, or the connection is gone.
func (c *rawClient) waitEnded(stream uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended[stream] && !c.gone {
		c.changed.Wait()
	}
}
