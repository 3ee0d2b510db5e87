package performance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// What the machine allows. A commit writes its pages, syncs, writes the page that makes them count, and syncs again.
const (
	workPing     = "Ping"
	workSync     = "write of 4 KiB and fdatasync"
	workTwoSyncs = "both writes and syncs of a commit"

	peerSocket = "the socket of dapr-bolt"
	peerDisk   = "the file system"
)

const (
	diskPage = 4 << 10
	// diskFile is allocated before anything is measured: growing a file costs more than writing to it.
	diskFile = 64 << 20
	// commitPages are what bbolt writes for one small set among 10,000 before the first sync: the value's leaf, two
	// branches, the file's root, and the list of free pages, which dapr-bolt leaves out of small files.
	commitPages = 5
)

// limits measures what there is without dapr-bolt: a disk, and the least that a component behind a socket can be.
func (b *Bench) limits(ctx context.Context, round int) error {
	for _, run := range []func(context.Context, *world, int) error{b.pings, b.disk} {
		if err := b.inWorld(func(w *world) error { return run(ctx, w, round) }); err != nil {
			return err
		}
	}
	for _, keeper := range []BareKeeper{BareLog, BareBolt} {
		if err := b.inWorld(func(w *world) error { return b.bare(ctx, w, keeper, round) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) pings(ctx context.Context, w *world, round int) error {
	store, err := startState(ctx, w, statePeers()[0])
	if err != nil {
		return err
	}
	for _, clients := range b.opts.Clients {
		b.measure(ctx, Cell{Section: SectionLimits, Work: workPing, Peer: peerSocket, Clients: clients}, round, pings(store))
	}
	return ctx.Err()
}

func (b *Bench) disk(ctx context.Context, w *world, round int) error {
	file, err := newDiskFile(filepath.Join(w.Dir(), "disk"))
	if err != nil {
		return err
	}
	w.onClose(file.Close)
	b.measure(ctx, Cell{Section: SectionLimits, Work: workSync, Peer: peerDisk, Clients: 1}, round, oneSync(file))
	b.measure(ctx, Cell{Section: SectionLimits, Work: workTwoSyncs, Peer: peerDisk, Clients: 1}, round, twoSyncs(file))
	return ctx.Err()
}

// measure lets clients call op in a closed loop.
func (b *Bench) measure(ctx context.Context, cell Cell, round int, op operation) {
	o := closedLoop(ctx, cell.Clients, b.opts.WarmUp, b.opts.Duration, op)
	b.record(o.sample(cell, round))
}

func pings(store any) operation {
	return func(context.Context, int, int) error {
		pinger, ok := store.(interface{ Ping() error })
		if !ok {
			return fmt.Errorf("%T cannot be pinged", store)
		}
		return pinger.Ping()
	}
}

func oneSync(file *os.File) operation {
	return func(_ context.Context, _, call int) error {
		return errors.Join(writePage(file, call), dataSync(file))
	}
}

func twoSyncs(file *os.File) operation {
	return func(_ context.Context, _, call int) error {
		for i := range commitPages {
			if err := writePage(file, 2+(call*commitPages+i)*7); err != nil {
				return err
			}
		}
		return errors.Join(dataSync(file), writePage(file, call%2), dataSync(file))
	}
}

// newDiskFile creates a file of diskFile bytes that are on disk.
func newDiskFile(path string) (*os.File, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	block := make([]byte, 1<<20)
	for at := int64(0); at < diskFile; at += int64(len(block)) {
		if _, err := file.WriteAt(block, at); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	if err := file.Sync(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// writePage writes the n-th page of a disk file; after the last comes the first.
func writePage(file *os.File, n int) error {
	_, err := file.WriteAt(make([]byte, diskPage), int64(n)*diskPage%diskFile)
	return err
}

// meanLatency is what one client sees, on average, in a closed loop.
func meanLatency(perSecond float64) time.Duration {
	return time.Duration(float64(time.Second) / perSecond)
}
