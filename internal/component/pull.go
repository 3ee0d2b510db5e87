package component

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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
	server *Server
	of     *pubSub
	// ctx ends with the stream, or when stop is called.
	ctx  context.Context
	stop context.CancelFunc
	// ids begins the id of each event, so that no other stream's are taken for this one's.
	ids string

	// What follows belongs to serve; deliver begins once sub and spans stand.

	sub   pubsub.Subscription
	spans *deliverySpans
	// unregister takes the stream out of what must be known after a restart.
	unregister func()
	ignored    int
}

// PullMessages brings the events of the topic that the first message names, until the stream ends.
func (s pubsubService) PullMessages(stream proto.PubSub_PullMessagesServer) error {
	ctx := stream.Context()
	p := &pull{PubSub_PullMessagesServer: stream, server: s.server, of: callOf(ctx).pubsub, ids: rand.Text() + "-"}
	p.ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	ended := make(chan error, 1)
	if err := s.server.addPull(p, func() { p.serve(ended) }); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	select {
	case err := <-ended:
		return err
	case <-p.ctx.Done():
		return cmp.Or(ctx.Err(), ErrStopping)
	}
}

// addPull has a stream served, unless the server is stopping or has too many.
func (s *Server) addPull(p *pull, serve func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return ErrStopping
	case len(s.pulls) >= s.opts.MaxStreams:
		return fmt.Errorf("%w: %d are open; --max-streams allows no more", ErrTooManyStreams, len(s.pulls))
	}
	s.pulls[p] = nil
	// A Recv or a Send that waits for the client ends with the stream, which is after its handler has returned: it is the
	// server that waits for them.
	s.goroutines.Go(serve)
	return nil
}

// serve reads what the client sends until the stream ends: the topic, and then acknowledgements. It says how reading has
// ended, and returns when all that the stream started has.
func (p *pull) serve(ended chan<- error) {
	defer p.server.removePull(p)
	err := p.subscribe()
	if err != nil {
		if p.sub != nil {
			p.close()
		}
		ended <- err
		return
	}
	var delivering sync.WaitGroup
	delivering.Go(p.deliver)
	for err == nil {
		var m *proto.PullMessagesRequest
		if m, err = p.Recv(); err == nil {
			p.acknowledge(m)
		}
	}
	p.close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	ended <- err
	delivering.Wait()
}

// subscribe begins the subscription that the first message asks for.
func (p *pull) subscribe() (err error) {
	c := callOf(p.ctx)
	defer answerPanic(p.ctx, p.server.opts.Logger, c, &err)
	first, _ := p.Recv()
	topic := first.GetTopic()
	if topic.GetName() == "" {
		// An end that comes first is no different from a message that says nothing.
		return cmp.Or[error](p.Context().Err(), invalid.New("topic", "", "a topic's name in the first message of PullMessages"))
	}
	sub, group, err := p.of.subscribe(p.ctx, c.conn.peer.String(), topic.GetName(), topic.GetMetadata())
	if err != nil {
		return err
	}
	// Before any event goes out: whoever has an event in flight comes back to it.
	p.unregister = c.conn.session.StreamOpened(c.component)
	p.sub, p.spans = sub, p.server.traceDeliveries(p.of.place, group)
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	if p.server.stopping { // which does not wait for what this stream would bring
		return ErrStopping
	}
	p.server.pulls[p] = sub
	return nil
}

// close puts back what the client did not acknowledge. Unless the server is stopping, it was the client who ended the
// stream, maybe over the event that it was handling.
func (p *pull) close() {
	if p.server.isStopping() {
		p.sub.Close()
	} else {
		p.unregister()
		p.sub.Interrupt()
	}
	p.spans.close()
	p.of.unsubscribe(p.sub)
	if p.ignored > 1 {
		p.of.log.Warn("acknowledgements for events that were not out have been ignored", "count", p.ignored)
	}
}

func (s *Server) removePull(p *pull) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pulls, p)
}

// acknowledge ends the event that the client names, if it is in flight.
func (p *pull) acknowledge(m *proto.PullMessagesRequest) {
	inFlight := false
	if place, ok := strings.CutPrefix(m.GetAckMessageId(), p.ids); ok {
		if number, err := strconv.ParseUint(place, 10, 64); err == nil {
			span, failure := p.spans.take(number), m.GetAckError()
			if failure != nil {
				inFlight = p.sub.Nack(number, failure.GetMessage())
			} else {
				inFlight = p.sub.Ack(number)
			}
			answered(span, failure, inFlight)
		}
	}
	if inFlight {
		return
	}
	if p.ignored++; p.ignored == 1 {
		p.of.log.Warn("ignored an acknowledgement for an event that is not out: it was acknowledged before, came too late, or was never sent; further ones on this stream are counted",
			"id", m.GetAckMessageId())
	}
}

// deliver brings the subscription's events to the client until the stream ends. Without an acknowledgement, a delivery ends
// by its ackWait, or is put back with the stream.
func (p *pull) deliver() {
	for {
		d, err := p.sub.Next(p.ctx)
		if err != nil { // ctx has ended, or the subscription was closed
			return
		}
		e := &d.Event
		m := &proto.PullMessagesResponse{Data: e.Data, TopicName: e.Topic, Metadata: deliveryMetadata(d), ContentType: e.ContentType}
		// What was stored under other limits would end the stream.
		if err := deliverable(m, maxDelivery); err != nil {
			d.Bury(pubsub.ReasonTooLarge, err.Error())
			continue
		}
		m.Id = p.ids + strconv.FormatUint(d.Number, 10)
		p.spans.begin(d)
		if p.Send(m) != nil {
			return
		}
	}
}

// drain waits until nothing of the stream's subscription is in flight, the stream has ended, or ctx has.
func (p *pull) drain(ctx context.Context, sub pubsub.Subscription) {
	for sub.InFlight() > 0 {
		select {
		case <-sub.Emptied():
		case <-p.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
