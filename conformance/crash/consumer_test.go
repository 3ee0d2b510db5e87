package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// consumer is one instance of an app. Each time its stream ends it dials anew, so that a stream belongs to one life of
// the process.
type consumer struct {
	*run
	spec *groupSpec
}

func (c *consumer) component() string { return "component-" + c.spec.name }

func (c *consumer) work(ctx context.Context) error {
	for ctx.Err() == nil {
		err := c.consume(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), harness.Unanswered(err), c.Excuses(err):
			pause(ctx, harness.Redial)
		default:
			return fmt.Errorf("consume as %s: %w", c.spec.name, err)
		}
	}
	return nil
}

func (c *consumer) consume(ctx context.Context) error {
	client, err := harness.Dial(c.socket, c.component())
	if err != nil {
		return err
	}
	defer client.Close()
	before := c.life.Load()
	pulled, err := client.Pull(ctx, c.spec.topic)
	if err != nil {
		return err
	}
	var s *stream
	for {
		m, err := pulled.Recv()
		if err != nil {
			return err
		}
		if s == nil {
			s = &stream{}
			// The process that was there before the stream was opened is there still.
			if c.life.Load() == before {
				s.life = int(before)
			}
		}
		if err := c.handle(pulled, s, m); err != nil {
			return err
		}
	}
}

func (c *consumer) handle(pulled proto.PubSub_PullMessagesClient, s *stream, m *proto.PullMessagesResponse) error {
	id, sequence := string(m.GetData()), m.GetMetadata()["sequence"]
	number, err := strconv.ParseUint(sequence, 10, 64)
	if err != nil {
		return fmt.Errorf("sequence of event %s: %w", id, err)
	}
	count, err := strconv.Atoi(m.GetMetadata()["deliveryCount"])
	if err != nil {
		return fmt.Errorf("deliveryCount of event %s: %w", id, err)
	}
	poisoned := c.events.deliver(c.spec.name, s, id, sequence, number, count)
	answer := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
	if poisoned || rand.Float64() < c.spec.nack {
		answer.AckError = &proto.AckMessageError{Message: "it cannot be handled now"}
	}
	c.events.letGo(c.spec.name, s, id, answer.AckError == nil)
	c.acked.Add(1)
	// What is wrong with the stream, Recv says.
	if err := pulled.Send(answer); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
