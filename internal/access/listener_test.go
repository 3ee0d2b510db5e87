package access

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPolicy(t *testing.T) {
	own := uint32(os.Geteuid())
	for name, test := range map[string]struct {
		policy Policy
		from   Peer
		admits bool
	}{
		"oneself":                    {from: Peer{UID: own, GID: 9}, admits: true},
		"root":                       {from: Peer{UID: 0}, admits: true},
		"somebody":                   {from: Peer{UID: 4711, GID: 4712}},
		"somebody of root's group":   {from: Peer{UID: 4711, GID: 0}},
		"an allowed user":            {policy: Policy{UIDs: []uint32{1, 4711}}, from: Peer{UID: 4711}, admits: true},
		"another user":               {policy: Policy{UIDs: []uint32{1, 4711}}, from: Peer{UID: 4710}},
		"a user with a group's id":   {policy: Policy{GIDs: []uint32{4711}}, from: Peer{UID: 4711}},
		"an allowed group":           {policy: Policy{GIDs: []uint32{4712}}, from: Peer{UID: 4711, GID: 4712}, admits: true},
		"an allowed group, not main": {policy: Policy{GIDs: []uint32{4712}}, from: Peer{UID: 4711, GID: 1, Groups: []uint32{5, 4712}}, admits: true},
		"another group":              {policy: Policy{GIDs: []uint32{4712}}, from: Peer{UID: 4711, GID: 1, Groups: []uint32{5}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.admits, test.policy.admits(test.from)) })
	}
}

func TestNoMoreConnectionsThanAllowed(t *testing.T) {
	dir, err := os.MkdirTemp("", "a")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	inner, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	var log bytes.Buffer
	clock := clockwork.NewFakeClock()
	l := NewListener(inner, Options{MaxConnections: 2, Logger: slog.New(slog.NewTextHandler(&log, nil)), Clock: clock})
	accepted := make(chan net.Conn, 10)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	dial := func() net.Conn {
		c, err := net.Dial("unix", inner.Addr().String())
		require.NoError(t, err)
		return c
	}
	turnedAway := func(c net.Conn) {
		t.Helper()
		defer c.Close()
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
	first, second := dial(), dial()
	defer second.Close()
	serverSide := <-accepted
	defer (<-accepted).Close()
	turnedAway(dial())
	turnedAway(dial())
	require.NoError(t, first.Close())
	require.NoError(t, serverSide.Close())
	_ = serverSide.Close() // a second close must not make room for one more
	third := dial()
	defer third.Close()
	defer (<-accepted).Close()
	turnedAway(dial())
	clock.Advance(logEvery)
	turnedAway(dial())
	require.NoError(t, l.Close())
	accepting.Wait()
	require.Equal(t, 2, strings.Count(log.String(), "refused a connection: 2 connections are open, and no more are allowed"), log.String())
	require.Contains(t, log.String(), "refusedBefore=2")
}
