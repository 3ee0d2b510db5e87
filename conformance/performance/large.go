package performance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/state"
	"github.com/dapr/components-contrib/state/query"
	pubsubadapter "github.com/dapr/dapr/pkg/components/pubsub"
	stateadapter "github.com/dapr/dapr/pkg/components/state"
	"golang.org/x/sync/errgroup"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What is measured of a large file: one build and one file at a time. Values have 100 bytes.
const (
	workSetAmongTenth = "set among a tenth of the keys"
	workSetAmongAll   = "set among all keys"
	workSetBesideRead = "set beside a query of every key"
	workSetBesideCopy = "set beside a backup"
	// The time from the start of the process until both components are initialised, after a SIGKILL, with the file in the
	// kernel's memory or not.
	workOpenWarm = "open after a SIGKILL, warm"
	workOpenCold = "open after a SIGKILL, cold"

	largeSize  = 100
	largeTopic = "bench.waiting"
	fillBatch  = 1000
	fillers    = 8
)

var largeValue = fmt.Appendf(nil, `{"n":0,"text":"%0*d"}`, largeSize-len(`{"n":0,"text":""}`), 0)

// large measures this build, and the other one, each with a file of its own.
func (b *bench) large(ctx context.Context) error {
	for name, path := range map[string]string{peerOurs: b.bolt, peerBase: b.opts.Base} {
		if path == "" {
			continue
		}
		if err := errors.Join(b.largeFile(ctx, name, path), b.close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// largeBolt is a process with a large file, and its components.
type largeBolt struct {
	*harness.Bolt
	store  state.Store
	broker contribpubsub.PubSub
}

func (b *bench) largeFile(ctx context.Context, name, path string) error {
	p, err := b.newPeer(name)
	if err != nil {
		return err
	}
	bolt, err := p.StartBolt(ctx, harness.BoltOptions{Path: path})
	if err != nil {
		return err
	}
	l := &largeBolt{Bolt: bolt}
	if err := l.open(ctx); err != nil {
		return err
	}
	defer func() { _ = l.close() }()
	p.process = bolt.Process
	p.set = func(ctx context.Context, key string, _ []byte) error {
		return l.store.Set(ctx, &state.SetRequest{Key: key, Value: largeValue})
	}
	measure := func(work string, keys int) error {
		return b.measure(ctx, turn{Cell{work, 64, name}, p}, 0, keys, longTurn)
	}
	tenth := b.opts.Keys / 10
	if err := errors.Join(b.fillKeys(ctx, l, 0, tenth), measure(workSetAmongTenth, tenth),
		b.fillKeys(ctx, l, tenth, b.opts.Keys), measure(workSetAmongAll, b.opts.Keys)); err != nil {
		return err
	}
	for work, disturb := range map[string]func(context.Context) error{workSetBesideRead: l.query, workSetBesideCopy: l.backup} {
		if err := b.beside(ctx, l, disturb, func() error { return measure(work, b.opts.Keys) }); err != nil {
			return fmt.Errorf("%s: %w", work, err)
		}
	}
	if err := errors.Join(b.fillEvents(ctx, l), measure(workSetAmongAll, b.opts.Keys)); err != nil {
		return err
	}
	for _, work := range []string{workOpenWarm, workOpenCold} {
		l.Kill()
		_ = l.close()
		if work == workOpenCold {
			if err := forget(l.DataDir); errors.Is(err, errors.ErrUnsupported) {
				break
			} else if err != nil {
				return err
			}
		}
		began := time.Now()
		if err := errors.Join(l.Restart(ctx), l.open(ctx)); err != nil {
			return err
		}
		b.keep(Sample{Cell: Cell{work, 1, name}, P50: time.Since(began)})
	}
	return nil
}

func (l *largeBolt) open(ctx context.Context) error {
	socket := filepath.Join(l.SocketDir, "bolt.sock")
	l.store, l.broker = stateadapter.NewGRPCStateStore(silent, socket), pubsubadapter.NewGRPCPubSub(silent, socket)
	m := contribpubsub.Metadata{}
	// No id may be forgotten meanwhile.
	m.Properties = map[string]string{"consumerID": consumerGroup, "dedupWindow": "24h"}
	return errors.Join(l.store.Init(ctx, state.Metadata{}), l.broker.Init(ctx, m))
}

func (l *largeBolt) close() error { return errors.Join(l.store.Close(), l.broker.Close()) }

// beside measures while something else goes on, again and again, and notes by how much the database grew.
func (b *bench) beside(ctx context.Context, l *largeBolt, disturb func(context.Context) error, measure func() error) error {
	disturbing, stop := context.WithCancel(ctx)
	defer stop()
	before, err := l.fileSize()
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error {
		for disturbing.Err() == nil {
			if err := disturb(disturbing); err != nil && disturbing.Err() == nil {
				return err
			}
		}
		return nil
	})
	err = measure()
	stop()
	after, sizeErr := l.fileSize()
	if err := errors.Join(group.Wait(), err, sizeErr); err != nil {
		return err
	}
	s := &b.results.Samples[len(b.results.Samples)-1]
	s.Growth = float64(after-before) / float64(max(s.Done, 1)*largeSize)
	return nil
}

// fileSize is that of the database with its log.
func (l *largeBolt) fileSize() (size int64, err error) {
	paths, err := filepath.Glob(filepath.Join(l.DataDir, "dapr.db*"))
	for _, path := range paths {
		info, statErr := os.Stat(path)
		if statErr != nil {
			return 0, statErr
		}
		size += info.Size()
	}
	return size, err
}

// query reads every value and finds none.
func (l *largeBolt) query(ctx context.Context) error {
	var q query.Query
	if err := json.Unmarshal([]byte(`{"filter":{"EQ":{"n":1}}}`), &q); err != nil {
		return err
	}
	_, err := l.store.(state.Querier).Query(ctx, &state.QueryRequest{Query: q})
	return err
}

func (l *largeBolt) backup(ctx context.Context) error {
	file := l.DataDir + ".copy"
	err := l.Command(ctx, nil, "backup", file)
	if removed := os.Remove(file); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

// inBatches calls put for fillBatch numbers at a time, several at once.
func inBatches(ctx context.Context, from, to int, put func(from, to int) error) error {
	batches := (to - from + fillBatch - 1) / fillBatch
	return loop(ctx, fillers, batches, 0, func(_ context.Context, _, n int) error {
		return put(from+n*fillBatch, min(from+(n+1)*fillBatch, to))
	}).first
}

func (b *bench) fillKeys(ctx context.Context, l *largeBolt, from, to int) error {
	b.progress("setting %d keys", to-from)
	return inBatches(ctx, from, to, func(from, to int) error {
		var sets []state.SetRequest
		for n := from; n < to; n++ {
			sets = append(sets, state.SetRequest{Key: keyName(n), Value: largeValue})
		}
		return l.store.BulkSet(ctx, sets, state.BulkStoreOpts{})
	})
}

// fillEvents leaves events waiting for a group that is away, with their ids in the window.
func (b *bench) fillEvents(ctx context.Context, l *largeBolt) error {
	b.progress("publishing %d events", b.opts.Events)
	subscribing, cancel := context.WithCancel(ctx)
	never := func(ctx context.Context, _ *contribpubsub.NewMessage) error { <-ctx.Done(); return ctx.Err() }
	err := l.broker.Subscribe(subscribing, contribpubsub.SubscribeRequest{Topic: largeTopic}, never)
	if err == nil {
		err = l.broker.Publish(ctx, &contribpubsub.PublishRequest{Topic: largeTopic, Data: newEvent(eventNumber.Add(1))})
	}
	cancel()
	if err != nil {
		return err
	}
	return inBatches(ctx, 0, b.opts.Events, func(from, to int) error {
		request := &contribpubsub.BulkPublishRequest{Topic: largeTopic}
		for range to - from {
			id := eventNumber.Add(1)
			request.Entries = append(request.Entries, contribpubsub.BulkMessageEntry{EntryId: fmt.Sprint(id), Event: newEvent(id)})
		}
		_, err := l.broker.(contribpubsub.BulkPublisher).BulkPublish(ctx, request)
		return err
	})
}
