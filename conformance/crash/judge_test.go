package crash

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// settlePatience bounds the wait for the last event to be delivered.
const settlePatience = 10 * time.Minute

// settle waits until every group has got all that it is owed.
func (r *run) settle(ctx context.Context) error {
	var left map[string]int
	err := r.eventually(ctx, settlePatience, "the delivery of what is left", func() (bool, error) {
		topics, err := r.topics(ctx)
		left = make(map[string]int)
		for topic, byGroup := range topics {
			for name, g := range byGroup {
				if n := g.Waiting + g.InFlight + g.Retrying; n > 0 && name != auditor {
					left[topic+" to "+name] = n
				}
			}
		}
		return len(left) == 0, err
	})
	if err != nil && len(left) > 0 && r.failure() == nil && ctx.Err() == nil {
		for what, n := range left {
			r.found.add(StillOwed, "%d events of %s", n, what)
		}
		return nil
	}
	return err
}

// judge looks at everything that is there, over the socket and in the file.
func (r *run) judge(ctx context.Context) error {
	for _, topic := range []string{plainTopic, keyedTopic} {
		if err := r.audit(ctx, topic); err != nil {
			return err
		}
	}
	dead, err := r.deadLetters(ctx)
	if err != nil {
		return err
	}
	r.events.final(dead)
	stored, err := r.stored(ctx)
	if err != nil {
		return err
	}
	r.keys.final(stored)
	r.closeClients()
	if err := r.Bolt.Stop(); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return err
	}

	r.report.Writes, r.report.Refused, r.report.Keys = r.keys.writes, r.keys.refused, len(r.keys.keys)+len(r.keys.counters)
	for _, n := range r.events.acceptedOf {
		r.report.Accepted += n
	}
	r.report.Duplicates, r.report.Deliveries = r.events.duplicates, r.events.deliveries
	for _, ids := range dead {
		r.report.Dead += len(ids)
	}
	r.report.Unanswered = int(r.unanswered.Load())
	r.report.Broken, r.report.Examples = r.found.counts, r.found.examples
	return nil
}

// audit reads a whole topic, as the group that has been owed all of it.
func (r *run) audit(ctx context.Context, topic string) error {
	spec := &groupSpec{name: auditor, topic: topic}
	c, err := harness.Dial(r.socket, (&consumer{run: r, spec: spec}).component())
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	topics, err := r.topics(ctx)
	if err != nil {
		return err
	}
	waiting := topics[topic][auditor].Waiting
	stream, err := c.Pull(ctx, topic)
	if err != nil {
		return err
	}
	for range waiting {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("reading topic %s, which holds %d events: %w", topic, waiting, err)
		}
		r.events.audit(topic, string(m.GetData()), m.GetMetadata()["sequence"])
		if err := stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}); err != nil {
			return err
		}
	}
	return nil
}

// deadLetters lists the event ids of the dead letters of each group.
func (r *run) deadLetters(ctx context.Context) (map[string]map[string]bool, error) {
	letters, err := r.Bolt.DeadLetters(ctx, "--all")
	if err != nil {
		return nil, err
	}
	dead := make(map[string]map[string]bool)
	for _, letter := range letters {
		if dead[letter.Group] == nil {
			dead[letter.Group] = make(map[string]bool)
		}
		dead[letter.Group][letter.Event.ID] = true
	}
	return dead, nil
}

// stored is what the store holds for every key that was ever tried; counters are judged here.
func (r *run) stored(ctx context.Context) (map[string][]byte, error) {
	c, err := r.client("store")
	if err != nil {
		return nil, err
	}
	for key := range r.keys.counters {
		got, err := c.State.Get(ctx, &proto.GetRequest{Key: key})
		if err != nil {
			return nil, err
		}
		value, _ := strconv.Atoi(string(got.GetData()))
		r.keys.counted(key, value, r.keys.highest(key))
	}
	var items []*proto.GetRequest
	for key := range r.keys.keys {
		items = append(items, &proto.GetRequest{Key: key})
	}
	const atOnce = 500
	stored := make(map[string][]byte, len(items))
	for some := range slices.Chunk(items, atOnce) {
		answer, err := c.State.BulkGet(ctx, &proto.BulkGetRequest{Items: some})
		if err != nil {
			return nil, err
		}
		for _, item := range answer.GetItems() {
			if item.GetError() != "" {
				return nil, fmt.Errorf("reading %s: %s", item.GetKey(), item.GetError())
			}
			stored[item.GetKey()] = absentIfEmpty(item.GetData())
		}
	}
	return stored, nil
}
