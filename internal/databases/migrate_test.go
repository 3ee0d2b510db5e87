package databases

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Whatever the engines hold, a copy holds, however often it was begun; and the copy's copy.
func TestACopyHoldsTheSame(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m := &twoEngines{T: r, dir: filepath.Join(dir, fmt.Sprint(runs)), now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)}
		require.NoError(r, os.Mkdir(m.dir, 0o700))
		m.open(m.openFile())
		_, err := m.events.OpenGroup(r.Context(), "a.>", "shop", pubsub.DeliverAll, pubsub.NameLimits{})
		require.NoError(r, err)
		actions := map[string]func(*rapid.T){}
		for name, action := range map[string]func(){
			"apply": m.apply, "append": m.append, "append2": m.append, "openGroup": m.openGroup, "settle": m.settle, "settle2": m.settle,
			"redrive": m.redrive, "promote": m.promote, "remove": m.removeGroup, "time": func() { m.now = m.now.Add(m.seconds("step")) },
		} {
			actions[name] = func(r *rapid.T) { m.T = r; action() }
		}
		r.Repeat(actions)
		m.T = r
		require.NoError(r, m.db.Close())
		manager, err := Open(r.Context(), Options{Dir: m.dir})
		require.NoError(r, err)
		defer func() { require.NoError(r, manager.Close(context.Background())) }()

		now := func() time.Time { return m.now }
		place := func(database string) servers.Place { return servers.Place{Database: database, Bucket: "state"} }
		state := func(database string) statestore.Engine {
			engine, err := manager.StateAtRest(r.Context(), place(database), database == "0")
			require.NoError(r, err)
			return engine
		}
		events := func(database string) pubsub.Migrator {
			p := place(database)
			p.Bucket = "pubsub"
			engine, _, err := manager.EventsAtRest(r.Context(), p, database == "0")
			require.NoError(r, err)
			return engine
		}
		first, err := statestore.Copy(r.Context(), state("0"), state("1"), m.now, func(statestore.Copied) {})
		require.NoError(r, err)
		// It stops in the middle, and is run again.
		stop := rapid.IntRange(0, 5).Draw(r, "stop")
		_, err = pubsub.Copy(r.Context(), events("0"), "0", &failing{events("1"), stop}, now, func(uint64) {})
		if err != nil {
			require.ErrorIs(r, err, errStop)
			_, err := manager.Broker(r.Context(), "1", "pubsub")
			require.ErrorIs(r, err, pubsub.ErrUnfinishedCopy)
			require.ErrorIs(r, events("1").BeginImport(r.Context(), "another"), pubsub.ErrForeign)
			_, err = pubsub.Copy(r.Context(), events("0"), "0", events("1"), now, func(uint64) {})
			require.NoError(r, err)
		}
		second, err := statestore.Copy(r.Context(), state("1"), state("2"), m.now, func(statestore.Copied) {})
		require.NoError(r, err)
		require.Equal(r, first, second)
		_, err = pubsub.Copy(r.Context(), events("1"), "1", events("2"), now, func(uint64) {})
		require.NoError(r, err)
	})
}

var errStop = fmt.Errorf("killed")

// failing is one that stops after some steps.
type failing struct {
	pubsub.Migrator
	steps int
}

func (f *failing) Import(ctx context.Context, records []pubsub.Record) error {
	if f.steps--; f.steps < 0 {
		return errStop
	}
	return f.Migrator.Import(ctx, records)
}
