package statestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// indexEngine answers steps of building from the test.
type indexEngine struct {
	statestore.Engine
	calls   chan indexCall
	answers chan indexAnswer
}

type indexCall struct {
	paths []string
	until time.Time
}

type indexAnswer struct {
	step statestore.IndexProgress
	err  error
}

func (e *indexEngine) BuildIndexes(ctx context.Context, paths []string, until time.Time, _ int) (statestore.IndexProgress, error) {
	select {
	case e.calls <- indexCall{paths, until}:
	case <-ctx.Done():
		return statestore.IndexProgress{}, ctx.Err()
	}
	select {
	case a := <-e.answers:
		return a.step, a.err
	case <-ctx.Done():
		return statestore.IndexProgress{}, ctx.Err()
	}
}

func newIndexStore(t *testing.T) (*statestore.Store, *indexEngine, *tapClock, *bytes.Buffer) {
	log := &bytes.Buffer{}
	clock := newTapClock()
	engine := &indexEngine{calls: make(chan indexCall), answers: make(chan indexAnswer)}
	s, err := statestore.New(engine, statestore.Options{Clock: clock, CleanupInterval: 1000 * time.Hour, Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(ctx)) })
	<-clock.armed // the sweeper's
	return s, engine, clock, log
}

func TestIndexesAreBuiltWithProgressInTheLogAndKeptFromEnding(t *testing.T) {
	s, engine, clock, log := newIndexStore(t)
	answer := func(step statestore.IndexProgress, err error) { engine.answers <- indexAnswer{step, err} }
	end := epoch.Add(statestore.QueryIndexRetention)

	require.NoError(t, s.AddQueryIndexes("b", "a", "b"))
	require.Equal(t, indexCall{[]string{"a", "b"}, end}, <-engine.calls)
	answer(statestore.IndexProgress{Path: "a", Keys: 256}, nil)
	<-engine.calls
	answer(statestore.IndexProgress{Path: "a", Keys: 512}, nil)
	<-engine.calls
	clock.Advance(10 * time.Second)
	answer(statestore.IndexProgress{Path: "a", Keys: 768}, nil)
	<-engine.calls
	// Asked for meanwhile, it is built in the same go; what is there already is not news.
	require.NoError(t, s.AddQueryIndexes("c"))
	require.NoError(t, s.AddQueryIndexes("a", "c"))
	answer(statestore.IndexProgress{Path: "a", Keys: 800, Complete: true}, nil)
	require.Equal(t, []string{"a", "b", "c"}, (<-engine.calls).paths)
	answer(statestore.IndexProgress{}, nil)
	<-clock.armed // at once taken up again because of c
	<-engine.calls
	answer(statestore.IndexProgress{}, nil)
	require.Equal(t, 24*time.Hour, <-clock.armed)
	text := log.String()
	require.Contains(t, text, `msg="building a query index" path=a keys=256`)
	require.NotContains(t, text, "512")
	require.Contains(t, text, `msg="still building a query index" path=a keys=768`)
	require.Contains(t, text, `msg="query index is complete" path=a keys=800`)

	clock.Advance(24 * time.Hour)
	require.Equal(t, indexCall{[]string{"a", "b", "c"}, end.Add(24*time.Hour + 10*time.Second)}, <-engine.calls)
	answer(statestore.IndexProgress{}, errors.New("a stain"))
	require.Equal(t, time.Minute, <-clock.armed)
	require.Contains(t, log.String(), "a stain")
	clock.Advance(time.Minute)
	<-engine.calls
	answer(statestore.IndexProgress{}, nil)
	require.Equal(t, 24*time.Hour, <-clock.armed)
}

func TestCloseEndsTheBuildingUnderWay(t *testing.T) {
	s, engine, _, log := newIndexStore(t)
	require.NoError(t, s.AddQueryIndexes("a"))
	<-engine.calls
	require.NoError(t, s.Close(ctx))
	require.NotContains(t, log.String(), "could not")
	require.NoError(t, s.AddQueryIndexes("b"), "it is too late, but no mistake")
}

func TestBadQueryIndexes(t *testing.T) {
	s, _ := newStore(t)
	for _, bad := range []string{"", ".", "a..b", "\xff"} {
		require.ErrorIs(t, s.AddQueryIndexes("a", bad), statestore.ErrInvalidArgument)
	}
	many := make([]string, statestore.MaxQueryIndexes+1)
	for i := range many {
		many[i] = fmt.Sprint("f", i)
	}
	err := s.AddQueryIndexes(many...)
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
	require.ErrorContains(t, err, "queryIndexes of 65 paths")
}
