package component

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"
	googleproto "google.golang.org/protobuf/proto"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// pull is one PullMessages stream. The SDK opens and ends it; the events and acknowledgements in between pass it by, for
// these faults:
//
//   - Its handler blocks until the event is acknowledged, so events in flight beside it would need goroutines, which
//     overtake each other on the way to the stream.
//   - An acknowledgement that comes twice, or when the event was given up, panics (it is sent on a closed channel).
//   - A stream cannot be ended from this side: here RecvMsg returns when stop was called.
type pull struct {
	grpc.ServerStream
	ctx context.Context
	log *slog.Logger
	// ids begins the id of each event, so that no other stream's are taken for this one's.
	ids string

	// received gets the first message, and the client's end.
	received chan receipt
	// done is closed when the stream is to end; reason says why, nil: the client left.
	done   chan struct{}
	reason error

	mu    sync.Mutex
	over  bool
	topic string // empty: the first message has not come
	sub   *subscription
	// sending says that SendMsg has an event in its hands; it may wait for the client to read.
	sending bool
	ignored int

	// delivering ends with the goroutine that brings events to the client.
	delivering sync.WaitGroup
	cancel     context.CancelFunc
	// begun is called once there is a subscription; closed, which it sets, when the client has ended the stream.
	begun, closed func()
}

type receipt struct {
	message *proto.PullMessagesRequest
	err     error
}

func newPull(stream grpc.ServerStream, log *slog.Logger) *pull {
	return &pull{
		ServerStream: stream,
		ctx:          stream.Context(),
		log:          log,
		ids:          rand.Text() + "-",
		received:     make(chan receipt),
		done:         make(chan struct{}),
	}
}

// read takes what the client sends until the stream ends.
func (p *pull) read() {
	for first := true; ; first = false {
		m := new(proto.PullMessagesRequest)
		err := p.ServerStream.RecvMsg(m)
		if err == nil && !first {
			p.acknowledge(m)
			continue
		}
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

// RecvMsg returns the first message, which must name a topic, and then the end of the stream.
func (p *pull) RecvMsg(into any) error {
	var r receipt
	select {
	case r = <-p.received:
	case <-p.done:
		return p.reason
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch topic := r.message.GetTopic().GetName(); {
	case p.topic == "" && topic == "":
		// An end that comes first is no different from a message that says nothing.
		if r.err != nil && p.ctx.Err() != nil {
			return r.err
		}
		return invalid.New("topic", "", "a topic's name in the first message of PullMessages")
	case r.err != nil:
		return r.err
	default:
		p.topic = topic
	}
	googleproto.Merge(into.(*proto.PullMessagesRequest), r.message)
	return nil
}

// acknowledge ends the event that the client names, if it is in flight.
func (p *pull) acknowledge(m *proto.PullMessagesRequest) {
	p.mu.Lock()
	sub := p.sub
	p.mu.Unlock()
	inFlight := false
	if place, ok := strings.CutPrefix(m.GetAckMessageId(), p.ids); ok && sub != nil {
		if number, err := strconv.ParseUint(place, 10, 64); err == nil {
			if failure := m.GetAckError(); failure != nil {
				inFlight = sub.source.Nack(number, failure.GetMessage())
			} else {
				inFlight = sub.source.Ack(number)
			}
		}
	}
	if !inFlight {
		p.ignore(m.GetAckMessageId())
	}
}

func (p *pull) ignore(id string) {
	p.mu.Lock()
	p.ignored++
	first, topic := p.ignored == 1, p.topic
	p.mu.Unlock()
	if first {
		p.log.Warn("ignored an acknowledgement for an event that is not out: it was acknowledged before, came too late, or was never sent; further ones on this stream are counted",
			"topic", topic, "id", id)
	}
}

// start begins to bring a subscription's events to the client.
func (p *pull) start(s *subscription) {
	// Before any event goes out: whoever has an event in flight comes back to it.
	p.begun()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sub = s
	if p.over {
		return
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(p.ctx)
	p.delivering.Go(func() {
		for {
			// Next fails only when ctx has ended or the subscription was closed.
			d, err := s.source.Next(ctx)
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
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return false
	}
	p.sending = true
	p.mu.Unlock()

	err := p.ServerStream.SendMsg(m)

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
		p.sub.source.Pause()
	}
}

// drain waits until nothing is in flight, the stream has ended, or ctx has.
func (p *pull) drain(ctx context.Context) {
	p.mu.Lock()
	sub := p.sub
	p.mu.Unlock()
	for sub != nil && sub.source.InFlight() > 0 {
		select {
		case <-sub.source.Emptied():
		case <-p.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the stream: RecvMsg returns reason, and nothing more is sent.
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
}

// close waits for what the stream has started, and puts back what the client did not acknowledge. Unless the server is
// stopping, it was the client who ended the stream, maybe over the event that it was handling.
func (p *pull) close(stopping bool) {
	p.delivering.Wait()
	p.mu.Lock()
	sub, ignored := p.sub, p.ignored
	p.mu.Unlock()
	if sub != nil {
		if stopping {
			sub.source.Close()
		} else {
			sub.source.Interrupt()
		}
		sub.leave()
	}
	if ignored > 1 {
		p.log.Warn("acknowledgements for events that were not out have been ignored", "topic", p.topic, "count", ignored)
	}
}

// pullMessages puts a pull around a PullMessages stream.
func (s *Server) pullMessages(c *call, srv any, stream grpc.ServerStream, handler grpc.StreamHandler) error {
	p := newPull(stream, s.opts.Logger.With("component", c.component))
	p.begun = func() { p.closed = c.conn.session.StreamOpened(c.component) }
	c.pull = p
	if err := s.addPull(p); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer func() {
		if p.closed != nil && !s.isStopping() {
			p.closed()
		}
	}()
	defer s.endPull(p)
	return handler(srv, p)
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
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	p.stop(ErrStopping)
	closed := make(chan struct{})
	s.goroutines.Go(func() {
		defer close(closed)
		p.close(stopping)
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
