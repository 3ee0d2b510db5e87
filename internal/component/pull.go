package component

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pull is one PullMessages stream: events go down to the client, acknowledgements come up.
type pull struct {
	proto.PubSub_PullMessagesServer
	// ctx ends with the stream, or when stop is called.
	ctx  context.Context
	stop context.CancelFunc
	log  *slog.Logger
	// ids begins the id of each event, so that no other stream's are taken for this one's.
	ids string

	mu  sync.Mutex
	sub pubsub.Subscription // nil: the first message has not come
	// spans is set with sub.
	spans *deliverySpans
	// sending says that Send has an event in its hands; it may wait for the client to read.
	sending bool
	ignored int

	// delivering ends with the goroutine that brings events to the client.
	delivering sync.WaitGroup
}

// PullMessages brings the events of the topic that the first message names, until the stream ends.
func (s pubsubService) PullMessages(stream proto.PubSub_PullMessagesServer) error {
	server, ctx := s.server, stream.Context()
	c := callOf(ctx)
	of, err := s.boundToConsume(ctx)
	if err != nil {
		return err
	}
	p := &pull{PubSub_PullMessagesServer: stream, log: of.log, ids: rand.Text() + "-"}
	p.ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	first, ended := make(chan *proto.PullMessagesRequest, 1), make(chan error, 1)
	if err := server.addPull(p, func() { p.read(first, ended) }); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer server.endPull(p, of)

	select {
	case m := <-first:
		topic := m.GetTopic()
		if topic.GetName() == "" {
			// An end that comes first is no different from a message that says nothing.
			return cmp.Or[error](ctx.Err(), invalid.New("topic", "", "a topic's name in the first message of PullMessages"))
		}
		sub, group, err := of.subscribe(p.ctx, c.conn.peer.String(), topic.GetName(), topic.GetMetadata())
		if err != nil {
			return err
		}
		// Before any event goes out: whoever has an event in flight comes back to it.
		closed := c.conn.session.StreamOpened(c.component)
		defer func() {
			if !server.isStopping() {
				closed()
			}
		}()
		p.start(sub, server.traceDeliveries(of.place, group))
	case <-p.ctx.Done():
	}
	select {
	case err := <-ended:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-p.ctx.Done():
		return cmp.Or(ctx.Err(), ErrStopping)
	}
}

// addPull starts to read from a stream, unless the server is stopping or has too many.
func (s *Server) addPull(p *pull, read func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return ErrStopping
	case len(s.pulls) >= s.opts.MaxStreams:
		return fmt.Errorf("%w: %d are open; --max-streams allows no more", ErrTooManyStreams, len(s.pulls))
	}
	s.pulls[p] = struct{}{}
	// The reader returns when the stream is over, which is after its handler: the server waits for it.
	s.goroutines.Go(read)
	return nil
}

// endPull returns when all that the stream started has ended. Only a Send that waits for the client to read cannot
// end before the stream does, which is after this function: then the server waits for it.
func (s *Server) endPull(p *pull, of *pubSub) {
	stopping := s.isStopping()
	p.stop()
	closed := make(chan struct{})
	s.goroutines.Go(func() {
		defer close(closed)
		p.close(of, stopping)
		s.mu.Lock()
		delete(s.pulls, p)
		s.mu.Unlock()
	})
	p.mu.Lock()
	blocked := p.sending
	p.mu.Unlock()
	if !blocked {
		<-closed
	}
}

// read takes what the client sends until the stream ends: the first message, which is nil if there is none, and then
// acknowledgements.
func (p *pull) read(first chan<- *proto.PullMessagesRequest, ended chan<- error) {
	m, err := p.Recv()
	for first <- m; err == nil; {
		if m, err = p.Recv(); err == nil {
			p.acknowledge(m)
		}
	}
	ended <- err
}

// acknowledge ends the event that the client names, if it is in flight.
func (p *pull) acknowledge(m *proto.PullMessagesRequest) {
	p.mu.Lock()
	sub, spans := p.sub, p.spans
	p.mu.Unlock()
	inFlight := false
	if place, ok := strings.CutPrefix(m.GetAckMessageId(), p.ids); ok && sub != nil {
		if number, err := strconv.ParseUint(place, 10, 64); err == nil {
			span, failure := spans.take(number), m.GetAckError()
			if failure != nil {
				inFlight = sub.Nack(number, failure.GetMessage())
			} else {
				inFlight = sub.Ack(number)
			}
			answered(span, failure, inFlight)
		}
	}
	if inFlight {
		return
	}
	p.mu.Lock()
	p.ignored++
	first := p.ignored == 1
	p.mu.Unlock()
	if first {
		p.log.Warn("ignored an acknowledgement for an event that is not out: it was acknowledged before, came too late, or was never sent; further ones on this stream are counted",
			"id", m.GetAckMessageId())
	}
}

// start begins to bring a subscription's events to the client.
func (p *pull) start(sub pubsub.Subscription, spans *deliverySpans) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sub, p.spans = sub, spans
	p.delivering.Go(func() {
		for {
			// Next fails only when ctx has ended or the subscription was closed.
			d, err := sub.Next(p.ctx)
			if err != nil || !p.deliver(d) {
				return
			}
		}
	})
}

// deliver sends an event to the client; false: the stream has ended. Without an acknowledgement, the delivery ends by its
// ackWait, or is put back with the stream.
func (p *pull) deliver(d *pubsub.Delivery) bool {
	e := &d.Event
	m := &proto.PullMessagesResponse{Data: e.Data, TopicName: e.Topic, Metadata: deliveryMetadata(d), ContentType: e.ContentType}
	// What was stored under other limits would end the stream.
	if err := deliverable(m, maxDelivery); err != nil {
		d.Bury(pubsub.ReasonTooLarge, err.Error())
		return true
	}
	m.Id = p.ids + strconv.FormatUint(d.Number, 10)
	// Who stops the stream looks at sending next.
	p.mu.Lock()
	p.sending = p.ctx.Err() == nil
	sending := p.sending
	p.mu.Unlock()
	if !sending {
		return false
	}

	p.spans.begin(d)
	err := p.Send(m)

	p.mu.Lock()
	p.sending = false
	p.mu.Unlock()
	return err == nil
}

// pause stops new deliveries.
func (p *pull) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sub != nil {
		p.sub.Pause()
	}
}

// drain waits until nothing is in flight, the stream has ended, or ctx has.
func (p *pull) drain(ctx context.Context) {
	p.mu.Lock()
	sub := p.sub
	p.mu.Unlock()
	for sub != nil && sub.InFlight() > 0 {
		select {
		case <-sub.Emptied():
		case <-p.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// close waits for what the stream has started, and puts back what the client did not acknowledge. Unless the server is
// stopping, it was the client who ended the stream, maybe over the event that it was handling.
func (p *pull) close(of *pubSub, stopping bool) {
	p.delivering.Wait()
	if p.sub == nil {
		return
	}
	if stopping {
		p.sub.Close()
	} else {
		p.sub.Interrupt()
	}
	p.spans.close()
	of.unsubscribe(p.sub)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ignored > 1 {
		p.log.Warn("acknowledgements for events that were not out have been ignored", "count", p.ignored)
	}
}
