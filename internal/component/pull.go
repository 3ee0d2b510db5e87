package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pull is one PullMessages stream, wrapped around the SDK's handling of it. It answers these faults of the SDK:
//
//   - Its handler blocks until the event is acknowledged, so events in hand beside it need goroutines, which overtake
//     each other on the way to the stream: here each begins only when the one before has sent its event.
//   - An acknowledgement that comes twice, or when the event was given up, panics (it is sent on a closed channel): here
//     the first for an event that is out is passed on, and no event is given up once its acknowledgement was.
//   - A stream cannot be ended from this side: here RecvMsg returns when stop was called.
type pull struct {
	grpc.ServerStream
	ctx context.Context
	log *slog.Logger

	received chan receipt
	// done is closed when the stream is to end; reason says why, nil: the client left.
	done   chan struct{}
	reason error

	mu    sync.Mutex
	over  bool
	topic string // empty: the first message has not come
	sub   *subscription
	// next is the event whose handler is about to send it.
	next *outgoing
	// out holds the events that were sent, by the SDK's ids.
	out map[string]*outgoing
	// sending says that SendMsg has an event in its hands; it may wait for the client to read.
	sending bool
	ignored int

	// deliveries counts the goroutines that bring events to the client.
	deliveries sync.WaitGroup
	cancel     context.CancelFunc
	// begun is called once there is a subscription; nil: nobody asks.
	begun func()
	// settled tells drain that an event has left our hands.
	settled chan struct{}
}

type receipt struct {
	message *proto.PullMessagesRequest
	err     error
}

// outgoing is an event on its way to the client and back.
type outgoing struct {
	id string
	// cancel makes the SDK's handler give the event up.
	cancel context.CancelFunc
	// acked and givenUp exclude each other.
	acked, givenUp bool
	written        chan struct{}
}

type pullKey struct{}

// pullOf returns the stream on which a call came, or nil.
func pullOf(ctx context.Context) *pull {
	p, _ := ctx.Value(pullKey{}).(*pull)
	return p
}

func newPull(stream grpc.ServerStream, log *slog.Logger) *pull {
	p := &pull{
		ServerStream: stream,
		log:          log,
		received:     make(chan receipt),
		done:         make(chan struct{}),
		out:          make(map[string]*outgoing),
		settled:      make(chan struct{}, 1),
	}
	p.ctx = context.WithValue(stream.Context(), pullKey{}, p)
	return p
}

// Context implements grpc.ServerStream.
func (p *pull) Context() context.Context { return p.ctx }

// read brings in what the client sends until the stream ends.
func (p *pull) read() {
	for {
		m := new(proto.PullMessagesRequest)
		err := p.ServerStream.RecvMsg(m)
		select {
		case p.received <- receipt{m, err}:
		case <-p.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// RecvMsg returns the first message, which must name a topic, and then the acknowledgements that the SDK may see.
func (p *pull) RecvMsg(into any) error {
	for {
		var r receipt
		select {
		case r = <-p.received:
		case <-p.done:
			return p.reason
		}
		first := p.topic == ""
		switch {
		case first && r.message.GetTopic().GetName() == "":
			// An end that comes first is no different from a message that says nothing.
			if r.err != nil && p.ctx.Err() != nil {
				return r.err
			}
			return &ValueError{Field: "topic", Value: "", Allowed: "a topic's name in the first message of PullMessages"}
		case r.err != nil:
			return r.err
		case first:
			p.topic = r.message.GetTopic().GetName()
		case !p.acknowledge(r.message.GetAckMessageId()):
			continue
		}
		googleproto.Merge(into.(*proto.PullMessagesRequest), r.message)
		return nil
	}
}

// acknowledge says whether id is that of an event that is out and not acknowledged yet; from here on it is.
func (p *pull) acknowledge(id string) bool {
	p.mu.Lock()
	o := p.out[id]
	ok := o != nil && !o.acked && !o.givenUp
	if ok {
		o.acked = true
	} else {
		p.ignored++
	}
	ignored := p.ignored
	p.mu.Unlock()
	if !ok && ignored == 1 {
		p.log.Warn("ignored an acknowledgement for an event that is not out: it was acknowledged before, came too late, or was never sent; further ones on this stream are counted",
			"topic", p.topic, "id", id)
	}
	return ok
}

// SendMsg sends the event of the handler that start let begin last.
func (p *pull) SendMsg(m any) error {
	event := m.(*proto.PullMessagesResponse)
	p.mu.Lock()
	o := p.next
	p.next = nil
	if p.over || o == nil || o.givenUp {
		p.mu.Unlock()
		return errors.New("the delivery has ended")
	}
	o.id = event.GetId()
	p.out[o.id] = o
	p.sending = true
	p.mu.Unlock()

	err := p.ServerStream.SendMsg(m)

	p.mu.Lock()
	p.sending = false
	p.mu.Unlock()
	close(o.written)
	return err
}

// start begins to bring a subscription's events to the client.
func (p *pull) start(s *subscription) {
	// Before any event goes out: who has an event in hand is on the roll.
	if p.begun != nil {
		p.begun()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sub = s
	if p.over {
		return
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(p.ctx)
	p.deliveries.Go(func() {
		for {
			// Next fails only when ctx has ended or the subscription was closed.
			d, err := s.source.Next(ctx)
			if err != nil {
				return
			}
			p.deliver(d, s.handler)
		}
	})
}

// deliver returns when the event is with the client, or has come to nothing.
func (p *pull) deliver(d *pubsub.Delivery, handler contribpubsub.Handler) {
	m := message(d)
	// What was stored under other limits would end the stream.
	if err := deliverable(&proto.PullMessagesResponse{Data: m.Data, TopicName: m.Topic, Metadata: m.Metadata, ContentType: required(m.ContentType)}, maxDelivery); err != nil {
		d.Bury(pubsub.ReasonTooLarge, err.Error())
		return
	}
	// The handler's context must not end with the stream's: giving up is only safe where no acknowledgement was passed on.
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	o := &outgoing{cancel: cancel, written: make(chan struct{})}
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		cancel()
		return
	}
	p.next = o
	p.mu.Unlock()

	ended := context.AfterFunc(d.Context(), func() { p.giveUp(o) })
	finished := make(chan struct{})
	p.deliveries.Go(func() {
		defer close(finished)
		defer cancel()
		defer ended()
		err := call(ctx, handler, m, p.log)
		p.settle(d, o, err)
	})
	select {
	case <-o.written:
	case <-finished:
	}
}

// settle ends a delivery whose handler has returned.
func (p *pull) settle(d *pubsub.Delivery, o *outgoing, err error) {
	p.mu.Lock()
	delete(p.out, o.id)
	if p.next == o {
		p.next = nil
	}
	acked := o.acked
	p.mu.Unlock()
	// Without an acknowledgement the delivery ends by its ackWait, or is put back with the stream: a SendMsg that failed
	// has ended it.
	switch {
	case acked && err == nil:
		d.Ack()
	case acked:
		d.Nack(err.Error())
	}
	select {
	case p.settled <- struct{}{}:
	default:
	}
}

// giveUp makes the handler of an event return, unless it is about to anyway.
func (p *pull) giveUp(o *outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !o.acked && !o.givenUp {
		o.givenUp = true
		o.cancel()
	}
}

// pause stops new deliveries.
func (p *pull) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sub != nil {
		p.sub.source.Pause()
	}
}

// drain waits until nothing is in hand, the stream has ended, or ctx has.
func (p *pull) drain(ctx context.Context) {
	p.mu.Lock()
	sub := p.sub
	p.mu.Unlock()
	for sub != nil && sub.source.InHand() > 0 {
		select {
		case <-p.settled:
		case <-p.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the stream: RecvMsg returns reason, and what was not acknowledged is given up.
func (p *pull) stop(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over, p.reason = true, reason
	close(p.done)
	if p.cancel != nil {
		p.cancel()
	}
	for _, o := range p.out {
		if !o.acked && !o.givenUp {
			o.givenUp = true
			o.cancel()
		}
	}
}

// close waits for what the stream has started, and puts back what the client did not acknowledge.
func (p *pull) close() {
	p.deliveries.Wait()
	p.mu.Lock()
	sub, ignored := p.sub, p.ignored
	p.mu.Unlock()
	if sub != nil {
		sub.source.Close()
		sub.leave()
	}
	if ignored > 1 {
		p.log.Warn("acknowledgements for events that were not out have been ignored", "topic", p.topic, "count", ignored)
	}
}

// pullStream is the interceptor that puts a pull around each PullMessages stream.
func (s *Server) pullStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != proto.PubSub_PullMessages_FullMethodName {
		return handler(srv, stream)
	}
	name := componentName(stream.Context())
	p := newPull(stream, s.opts.Logger.With("component", name))
	if s.opts.Streams != nil {
		p.begun = func() { s.observe(p.log, s.opts.Streams.Opened(name)) }
	}
	if err := s.addPull(p); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer s.leaveRoll(p, name)
	defer s.endPull(p)
	return handler(srv, p)
}

// leaveRoll tells the observer that the sidecar has ended a stream.
func (s *Server) leaveRoll(p *pull, name string) {
	p.mu.Lock()
	began := p.sub != nil
	p.mu.Unlock()
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if s.opts.Streams != nil && began && !stopping {
		s.observe(p.log, s.opts.Streams.Closed(name))
	}
}

func (s *Server) observe(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("subscriptions may not come back by themselves after the next restart", "error", err)
	}
}

// addPull starts to read from a stream, unless the server is stopping or has too many.
func (s *Server) addPull(p *pull) error {
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
	s.goroutines.Go(p.read)
	return nil
}

// endPull returns when all that the stream started has ended. Only a SendMsg that waits for the client to read cannot
// end before the stream does, which is after this function: then the server waits for it.
func (s *Server) endPull(p *pull) {
	p.stop(ErrStopping)
	closed := make(chan struct{})
	s.goroutines.Go(func() {
		defer close(closed)
		p.close()
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
