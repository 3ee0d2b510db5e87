package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dapr/components-contrib/state"
	stateadapter "github.com/dapr/dapr/pkg/components/state"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What the machine allows. A commit writes its pages, syncs, writes the page that makes them count, and syncs again.
const (
	workPing     = "Ping"
	workSync     = "write of 4 KiB and fdatasync"
	workTwoSyncs = "both writes and syncs of a commit"

	peerSocket = "the socket of dapr-bolt"
	peerBare   = "a bare gRPC server"
	peerDisk   = "the file system"
)

const (
	diskPage = 4 << 10
	// diskFile is allocated before anything is measured: growing a file costs more than writing to it.
	diskFile = 64 << 20
	// commitPages are what one small set writes before the first sync: the value's leaf, a branch, the two levels of
	// buckets above it, and the list of free pages.
	commitPages = 5
)

type pinger interface{ Ping() error }

func (b *Bench) limits(ctx context.Context, round int) error {
	if err := b.inWorld(func(w *world) error { return b.pings(ctx, w, round) }); err != nil {
		return err
	}
	return b.inWorld(func(w *world) error { return b.disk(ctx, w, round) })
}

func (b *Bench) pings(ctx context.Context, w *world, round int) error {
	ours, err := startState(ctx, w, statePeers()[0])
	if err != nil {
		return err
	}
	bare, err := w.startBarePing(ctx)
	if err != nil {
		return err
	}
	store := stateadapter.NewGRPCStateStore(silent("ping"), bare)
	if err := store.Init(ctx, state.Metadata{}); err != nil {
		return err
	}
	w.onClose(store.Close)
	for _, clients := range b.opts.Clients {
		for _, p := range []struct {
			name  string
			store any
		}{{peerSocket, ours}, {peerBare, store}} {
			ping, ok := p.store.(pinger)
			if !ok {
				return fmt.Errorf("%s cannot be pinged", p.name)
			}
			cell := Cell{Section: SectionLimits, Work: workPing, Peer: p.name, Clients: clients}
			o := closedLoop(ctx, clients, b.opts.WarmUp, b.opts.Duration, func(context.Context, int, int) error { return ping.Ping() })
			b.record(o.sample(cell, round))
		}
	}
	return ctx.Err()
}

func (b *Bench) disk(ctx context.Context, w *world, round int) (err error) {
	file, err := os.Create(filepath.Join(w.Dir(), "disk"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	block := make([]byte, 1<<20)
	for at := int64(0); at < diskFile; at += int64(len(block)) {
		if _, err := file.WriteAt(block, at); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	page := make([]byte, diskPage)
	write := func(n int) error {
		_, err := file.WriteAt(page, int64(n)*diskPage%diskFile)
		return err
	}
	for _, m := range []struct {
		work string
		op   func(call int) error
	}{
		{workSync, func(call int) error {
			return errors.Join(write(call), dataSync(file))
		}},
		{workTwoSyncs, func(call int) error {
			for i := range commitPages {
				if err := write(2 + (call*commitPages+i)*7); err != nil {
					return err
				}
			}
			return errors.Join(dataSync(file), write(call%2), dataSync(file))
		}},
	} {
		cell := Cell{Section: SectionLimits, Work: m.work, Peer: peerDisk, Clients: 1}
		o := closedLoop(ctx, 1, b.opts.WarmUp, b.opts.Duration, func(_ context.Context, _, call int) error { return m.op(call) })
		b.record(o.sample(cell, round))
	}
	return ctx.Err()
}

// startBarePing serves pings in a process of its own and returns its socket.
func (w *world) startBarePing(ctx context.Context) (socket string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	socket = filepath.Join(filepath.Dir(w.SocketDir()), "bare.sock")
	process, err := w.StartServer(harness.ServerOptions{
		Name:    PingServerCommand,
		Path:    self,
		Args:    []string{PingServerCommand, socket},
		Network: "unix",
		Address: socket,
	})
	if err != nil {
		return "", err
	}
	return socket, process.WaitReady(ctx)
}

// meanLatency is what one client sees, on average, in a closed loop.
func meanLatency(perSecond float64) time.Duration {
	return time.Duration(float64(time.Second) / perSecond)
}
