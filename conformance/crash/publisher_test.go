package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	publishersOfTopic = 3
	bulkEvents        = 5
	// mostBehind is how far the slowest group may be behind before publishers wait for it.
	mostBehind = 400
	behindWait = 5 * time.Millisecond
)

// publisher is one client that publishes on one topic.
type publisher struct {
	*run
	client, rival *harness.Client
	name, topic   string
}

// work publishes event after event, each until it is acknowledged, as a publisher does who wants it to arrive.
func (p *publisher) work(ctx context.Context) error {
	for i := 0; ctx.Err() == nil; i++ {
		if p.events.behind(p.topic) > mostBehind {
			pause(ctx, behindWait)
			continue
		}
		ids := []string{fmt.Sprintf("%s-%d", p.name, i)}
		if rand.IntN(4) == 0 {
			for j := 1; j < bulkEvents; j++ {
				ids = append(ids, fmt.Sprintf("%s-%d", ids[0], j))
			}
		}
		p.events.trying(p.topic, p.name, ids...)
		var err error
		if rand.IntN(5) == 0 {
			err = p.race(ctx, ids)
		} else if err = p.publish(ctx, p.client, ids); err == nil {
			p.published(ids)
		} else if p.Excuses(err) && !unsure(err) && rand.IntN(2) == 0 {
			p.events.failed(ids...)
			continue
		} else {
			err = p.untilAccepted(ctx, p.client, ids)
		}
		if err == nil && rand.IntN(5) == 0 {
			err = p.untilAccepted(ctx, p.client, ids)
		}
		if err != nil {
			return fmt.Errorf("%s: publish %v: %w", p.name, ids, err)
		}
	}
	return nil
}

// race publishes the same events over two connections at once.
func (p *publisher) race(ctx context.Context, ids []string) error {
	var other sync.WaitGroup
	var otherErr error
	other.Go(func() { otherErr = p.untilAccepted(ctx, p.rival, ids) })
	err := p.untilAccepted(ctx, p.client, ids)
	other.Wait()
	if err != nil {
		return err
	}
	return otherErr
}

func (p *publisher) untilAccepted(ctx context.Context, over *harness.Client, ids []string) error {
	for {
		err := p.publish(ctx, over, ids)
		switch {
		case err == nil:
			p.published(ids)
			return nil
		case !harness.Unanswered(err) && !p.Excuses(err):
			return err
		}
		p.unanswered.Add(1)
		// Also when the run ends: what may be stored must be known to be.
		pause(context.WithoutCancel(ctx), harness.Redial)
	}
}

func (p *publisher) published(ids []string) {
	p.events.published(ids...)
	p.acked.Add(1)
}

func (p *publisher) publish(ctx context.Context, over *harness.Client, ids []string) error {
	metadata := func(id string) map[string]string {
		m := map[string]string{"eventID": id}
		if p.topic == keyedTopic {
			m["partitionKey"] = p.name
		}
		return m
	}
	if len(ids) == 1 {
		_, err := over.PubSub.Publish(ctx, &proto.PublishRequest{Topic: p.topic, Data: []byte(ids[0]), Metadata: metadata(ids[0])})
		return err
	}
	entries := make([]*proto.BulkMessageEntry, len(ids))
	for i, id := range ids {
		entries[i] = &proto.BulkMessageEntry{EntryId: id, Event: []byte(id), Metadata: metadata(id)}
	}
	answer, err := over.PubSub.BulkPublish(ctx, &proto.BulkPublishRequest{Topic: p.topic, Entries: entries})
	if err == nil && len(answer.GetFailedEntries()) > 0 {
		return fmt.Errorf("%d entries failed, the first with: %s", len(answer.GetFailedEntries()), answer.GetFailedEntries()[0].GetError())
	}
	return err
}
