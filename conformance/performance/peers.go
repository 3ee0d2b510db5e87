package performance

import (
	"context"
	"fmt"
	"path/filepath"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	memorypubsub "github.com/dapr/components-contrib/pubsub/in-memory"
	"github.com/dapr/components-contrib/pubsub/jetstream"
	redispubsub "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/state"
	memorystate "github.com/dapr/components-contrib/state/in-memory"
	redisstate "github.com/dapr/components-contrib/state/redis"
	"github.com/dapr/components-contrib/state/sqlite"
	pubsubadapter "github.com/dapr/dapr/pkg/components/pubsub"
	stateadapter "github.com/dapr/dapr/pkg/components/state"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func statePeers() []*peer[state.Store] {
	return []*peer[state.Store]{
		{
			name: ourState, kind: ourState,
			settings: "defaults; behind its Unix socket, through the runtime's adapter",
			serve:    serveBolt,
			open: func(w *world) state.Store {
				return stateadapter.NewGRPCStateStore(silent(ourState), w.socket())
			},
		},
		{
			name: "state.sqlite", kind: "state.sqlite",
			settings: "write-ahead log (its default), synchronous(FULL); in process",
			serve:    serveSQLite,
			open:     func(*world) state.Store { return sqlite.NewSQLiteStateStore(silent("sqlite")) },
		},
		{
			name: "state.redis", kind: "state.redis",
			settings: "AOF, appendfsync always, no snapshots; server on 127.0.0.1",
			missing:  redisMissing,
			serve:    serveRedis,
			open:     func(*world) state.Store { return redisstate.NewRedisStateStore(silent("redis")) },
		},
		{
			name: "state.in-memory", kind: "state.in-memory",
			settings: "keeps nothing on disk; in process",
			serve:    serveNothing,
			open:     func(*world) state.Store { return memorystate.NewInMemoryStateStore(silent("memory")) },
			direct:   private,
		},
	}
}

func pubsubPeers() []*peer[contribpubsub.PubSub] {
	newJetStream := func(*world) contribpubsub.PubSub { return jetstream.NewJetStream(silent("jetstream")) }
	return []*peer[contribpubsub.PubSub]{
		{
			name: ourPubSub, kind: ourPubSub,
			settings: "defaults, deduplication by id included; behind its Unix socket, through the runtime's adapter",
			serve:    serveBolt,
			open: func(w *world) contribpubsub.PubSub {
				return pubsubadapter.NewGRPCPubSub(silent(ourPubSub), w.socket())
			},
		},
		{
			name: "pubsub.redis", kind: "pubsub.redis",
			settings: "AOF, appendfsync always, no snapshots; server on 127.0.0.1; 10 workers (its default)",
			missing:  redisMissing,
			serve:    serveRedis,
			open:     func(*world) contribpubsub.PubSub { return redispubsub.NewRedisStreams(silent("redis")) },
		},
		{
			name: "pubsub.jetstream", kind: "pubsub.jetstream",
			settings: "sync always; embedded server on 127.0.0.1, file storage",
			serve:    serveJetStream(true),
			open:     newJetStream,
			direct:   unstable,
		},
		{
			name: "pubsub.jetstream, default", kind: "pubsub.jetstream",
			settings: "the server's default: a sync every two minutes, so an answer promises nothing; embedded server on 127.0.0.1, file storage",
			serve:    serveJetStream(false),
			open:     newJetStream,
			direct:   unstable,
		},
		{
			name: "pubsub.in-memory", kind: "pubsub.in-memory",
			settings: "keeps nothing; in process",
			serve:    serveNothing,
			open:     func(*world) contribpubsub.PubSub { return memorypubsub.New(silent("memory")) },
			direct:   private,
		},
	}
}

func serveNothing(context.Context, *world) (map[string]string, error) {
	return map[string]string{}, nil
}

func serveBolt(ctx context.Context, w *world) (_ map[string]string, err error) {
	w.bolt, err = w.StartBolt(ctx, harness.BoltOptions{Path: w.bench.bolt})
	return map[string]string{}, err
}

func serveSQLite(_ context.Context, w *world) (map[string]string, error) {
	dir, err := w.folder("sqlite")
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"connectionString": fmt.Sprintf("file:%s?_pragma=synchronous(FULL)", filepath.Join(dir, "state.db")),
	}, nil
}
