package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// errAnotherStream: the stream is not the one from which the broker knows what it knows.
var errAnotherStream = errors.New("the stream was deleted and made anew")

// checkStream makes the stream if an operator has deleted it. If it is another one than before, whoever made it, what is known
// of topics and groups is written down in it, so that all goes on; what the other held is gone.
func (b *Broker) checkStream(ctx context.Context) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	info, err := b.isSameStream(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		var made jetstream.Stream
		if made, err = b.ensureStream(ctx); err == nil {
			info, err = made.CachedInfo(), errAnotherStream
		}
	}
	if !errors.Is(err, errAnotherStream) {
		return err
	}
	if err := b.beginAnew(ctx, info); err != nil {
		return fmt.Errorf("stream %s: %w, and cannot be used: %w", b.layout.stream, errAnotherStream, err)
	}
	b.log.Error("the stream was deleted and made anew: its events, retries, dead letters and remembered ids are gone", "stream", b.layout.stream)
	return nil
}

// isSameStream returns what the stream is, and errAnotherStream beside it if it is another one than before.
func (b *Broker) isSameStream(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := b.stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !info.Created.Equal(b.created) {
		return info, errAnotherStream
	}
	return info, nil
}

// beginAnew writes down what is known, unless somebody else did.
func (b *Broker) beginAnew(ctx context.Context, stream *jetstream.StreamInfo) error {
	if err := checkConfig(&stream.Config); err != nil {
		return err
	}
	b.mu.Lock()
	b.groupsAt = 0
	clear(b.learned)
	clear(b.purged)
	for name, g := range b.groups {
		g.After = 0
		b.groups[name] = g
	}
	topics, groups := slices.Collect(maps.Values(b.topics)), maps.Clone(b.groups)
	b.mu.Unlock()
	for _, t := range topics {
		if err := b.updateMissing(ctx, b.layout.subject("t", hash(t.Topic)), t); err != nil {
			return err
		}
	}
	for name, g := range groups {
		if g.Removed {
			continue
		}
		if err := b.updateMissing(ctx, b.layout.subject("g", name), g); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setStream(stream.Created)
	return nil
}

// updateMissing stores a record unless there is one.
func (b *Broker) updateMissing(ctx context.Context, subject string, record any) error {
	return b.update(ctx, subject, func(have []byte) (any, error) {
		if len(have) > 0 {
			return json.RawMessage(have), nil
		}
		return record, nil
	})
}

// setStream says from which stream the broker knows what it knows. It is called with b.mu held, or before anybody else looks.
func (b *Broker) setStream(created time.Time) {
	b.created = created
	if b.replaced != nil {
		close(b.replaced)
	}
	b.replaced = make(chan struct{})
}
