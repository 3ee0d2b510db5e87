package boltdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A simulated disk keeps, for the database file and its log, what is certainly on the disk, and what was written since
// the last sync, of which any part may be. A power failure is a random choice of that, at a random moment.

// diskWrite is a write that may or may not have reached the disk.
type diskWrite struct {
	number int
	off    int64
	data   []byte
}

type diskFile struct {
	durable []byte
	pending []diskWrite
	number  int // of the last write
	syncing bool
}

func (f *diskFile) clone() *diskFile {
	return &diskFile{durable: bytes.Clone(f.durable), pending: slices.Clone(f.pending)}
}

func writeTo(to []byte, off int64, data []byte) []byte {
	if need := int(off) + len(data); need > len(to) {
		to = append(to, make([]byte, need-len(to))...)
	}
	copy(to[off:], data)
	return to
}

// image is one of the contents that a power failure may leave.
func (f *diskFile) image(r *rand.Rand) []byte {
	out := bytes.Clone(f.durable)
	switch r.IntN(8) {
	case 0: // nothing
	case 1: // everything
		for _, w := range f.pending {
			out = writeTo(out, w.off, w.data)
		}
	case 2: // the first writes
		for _, w := range f.pending[:r.IntN(len(f.pending)+1)] {
			out = writeTo(out, w.off, w.data)
		}
	case 3: // some writes
		p := r.Float64()
		for _, w := range f.pending {
			if r.Float64() < p {
				out = writeTo(out, w.off, w.data)
			}
		}
	case 4, 5: // of each page one of its versions
		out = f.mix(r, out, 4096)
	case 6: // of each part of a sector: a disk need not write even those in one piece
		out = f.mix(r, out, 64)
	default: // of each sector one of its versions
		out = f.mix(r, out, sector)
	}
	return out
}

// mix gives some units of the file the content that one of the writes left there.
func (f *diskFile) mix(r *rand.Rand, out []byte, unit int64) []byte {
	p := r.Float64()
	versions := map[int64][]int{}
	for i, w := range f.pending {
		for u := w.off / unit; u*unit < w.off+int64(len(w.data)); u++ {
			versions[u] = append(versions[u], i)
		}
	}
	for _, u := range slices.Sorted(maps.Keys(versions)) {
		if r.Float64() > p {
			continue
		}
		writes := versions[u]
		last := len(writes) - 1
		if r.IntN(2) == 0 {
			last = r.IntN(len(writes))
		}
		for _, i := range writes[:last+1] {
			w := f.pending[i]
			from, to := max(w.off, u*unit), min(w.off+int64(len(w.data)), (u+1)*unit)
			out = writeTo(out, from, w.data[from-w.off:to-w.off])
		}
	}
	return out
}

// moment is the disk at some moment, and what its users knew then.
type moment struct {
	files map[string]*diskFile
	steps int
	what  string
}

type disk struct {
	mu    sync.Mutex
	files map[string]*diskFile
	r     *rand.Rand
	// oneIn says how rarely a moment is kept, and failIn how rarely an operation fails; 0: never.
	oneIn, failIn int
	moments       []moment
	steps         int
	operations    int
	// No operation fails before calm, but burst says how many are to fail soon. The moments after one that failed, up to
	// close, are kept more often.
	calm, burst, close int
	refused            int // the step after one that was refused; 0: the moment after that was kept
	// overlapped is a file that two have synced at a time.
	overlapped string
}

func newDisk(r *rand.Rand, content map[string][]byte) *disk {
	// Its goroutines draw beside the caller.
	d := &disk{files: map[string]*diskFile{}, r: rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))}
	for name, b := range content {
		d.files[name] = &diskFile{durable: bytes.Clone(b)}
	}
	return d
}

func (d *disk) file(name string) *diskFile {
	if d.files[name] == nil {
		d.files[name] = &diskFile{}
	}
	return d.files[name]
}

// keep keeps the present moment.
func (d *disk) keep(what string) {
	m := moment{files: map[string]*diskFile{}, steps: d.steps, what: what}
	for name, f := range d.files {
		m.files[name] = f.clone()
	}
	d.moments = append(d.moments, m)
}

// happens counts an operation, keeps the moment perhaps, and makes the operation fail perhaps.
func (d *disk) happens(what string) error {
	d.operations++
	oneIn := d.oneIn
	if d.operations < d.close {
		oneIn = min(oneIn, 12)
	}
	// The moment when a step has just been refused is always kept.
	if d.oneIn > 0 && (d.r.IntN(oneIn) == 0 || d.refused > 0 && d.steps == d.refused) {
		d.refused = 0
		d.keep(what)
	}
	failIn := d.failIn
	switch { // there are few
	case what == "sync header" || d.burst > 0:
		failIn = min(failIn, 2)
	case what == "sync db":
		failIn = min(failIn, 16)
	}
	if failIn == 0 || d.operations < d.calm || d.r.IntN(failIn) > 0 {
		return nil
	}
	d.refused, d.close = d.steps+1, d.operations+30
	if d.burst--; d.burst < 0 {
		d.burst = d.r.IntN(4)
	}
	if d.burst == 0 {
		d.calm = d.operations + 60
	}
	return []error{syscall.EIO, syscall.ENOSPC}[d.r.IntN(2)]
}

// write notes a write, and passes on what of it is written: if it fails, any part from its beginning, perhaps all.
func (d *disk) write(name string, b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
	d.mu.Lock()
	failed := d.happens("write " + name)
	if failed != nil {
		b = b[:len(b)*d.r.IntN(3)/2]
	}
	f := d.file(name)
	f.number++
	f.pending = append(f.pending, diskWrite{f.number, off, bytes.Clone(b)})
	d.mu.Unlock()
	n, err := write(b, off)
	return n, errors.Join(err, failed)
}

// sync makes last what was written before it began. If it fails, some of that is lost for good, although the system still
// shows it. Of two who sync a file at a time, only one would hear of that.
func (d *disk) sync(name string) error {
	d.mu.Lock()
	f := d.file(name)
	what := "sync " + name
	if name == "wal" && slices.ContainsFunc(f.pending, func(w diskWrite) bool { return w.off < areasAt }) {
		what = "sync header"
	}
	err := d.happens(what)
	until := f.number
	if f.syncing {
		d.overlapped = name
	}
	f.syncing = true
	d.mu.Unlock()
	if d.oneIn > 0 {
		time.Sleep(time.Duration(rand.IntN(map[string]int{"db": 500, "wal": 50}[name])) * time.Microsecond) // others go on meanwhile
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f.syncing = false
	var rest []diskWrite
	for _, w := range f.pending {
		switch {
		case w.number > until:
			rest = append(rest, w)
		case err == nil || d.r.IntN(2) == 0:
			f.durable = writeTo(f.durable, w.off, w.data)
		}
	}
	f.pending = rest
	if err == nil {
		_ = d.happens("synced " + name)
	}
	return err
}

// diskOf is a file of the system that a disk knows of.
type diskOf struct {
	osFile
	disk *disk
	name string
}

func (f diskOf) WriteAt(b []byte, off int64) (int, error) {
	return f.disk.write(f.name, b, off, f.osFile.WriteAt)
}

func (f diskOf) Allocate(int64, int64) error { return nil }

func (f diskOf) Sync() error { return f.disk.sync(f.name) }

// hookWrites puts itself between bbolt and the file.
func hookWrites(bolt *bbolt.DB, write func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error)) {
	original := writeHook(bolt)
	through := *original
	*original = func(b []byte, off int64) (int, error) { return write(b, off, through) }
}

// options makes a database run on the disk, with a small log.
func (d *disk) options() Options {
	return Options{
		Logger: slog.New(slog.DiscardHandler), areaSize: 256 << 10, checkpointBytes: 200 << 10, checkpointStep: 60 << 10, checkpointEvery: time.Hour,
		wrap: func(f *os.File) file {
			name := "db"
			if strings.HasSuffix(f.Name(), logSuffix) {
				name = "wal"
			}
			return diskOf{osFile{f}, d, name}
		},
		opened: func(bolt *bbolt.DB) {
			hookWrites(bolt, func(b []byte, off int64, write func([]byte, int64) (int, error)) (int, error) {
				if !isMeta(off) {
					return d.write("db", b, off, write)
				}
				// bbolt syncs what it has written before, and this: Open does without neither.
				if err := d.sync("db"); err != nil {
					return 0, err
				}
				n, err := d.write("db", b, off, write)
				if err == nil {
					err = d.sync("db")
				}
				return n, err
			})
		},
	}
}

// place writes the files to a folder of their own.
func place(t *testing.T, dir string, content map[string][]byte) (path string) {
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	path = filepath.Join(dir, "x.db")
	for name, b := range content {
		if name == "wal" {
			name = path + logSuffix
		} else {
			name = path
		}
		require.NoError(t, os.WriteFile(name, b, 0o600))
	}
	return path
}

// abandon ends a database as a kill would.
func abandon(db *DB) {
	db.closeOnce.Do(func() {
		close(db.stop)
		<-db.stopped
		db.cancel()
		db.release()
		db.openErr = ErrClosed
	})
}

var digestSeed = maphash.MakeSeed()

// digest is of all that users have stored.
func digest(tx *Tx) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	number := func(v uint64) { _, _ = h.Write(binary.BigEndian.AppendUint64(nil, v)) }
	var walk func(b *Bucket)
	walk = func(b *Bucket) {
		number(b.Sequence())
		_ = b.ForEach(func(k, v []byte) error {
			number(uint64(len(k)))
			_, _ = h.Write(k)
			if v == nil {
				number(1 << 60)
				walk(b.Bucket(k))
				return nil
			}
			number(uint64(len(v)))
			_, _ = h.Write(v)
			return nil
		})
		number(1 << 61)
	}
	_ = tx.ForEach(func(name []byte, b *Bucket) error {
		if !bytes.Equal(name, bucketFormat) {
			_, _ = h.Write(name)
			walk(b)
		}
		return nil
	})
	return h.Sum64()
}

func digestOf(db *DB) (d uint64, err error) {
	err = db.View(func(tx *Tx) error { d = digest(tx); return nil })
	return d, err
}

// changeSome makes some random changes.
func changeSome(tx *Tx, r *rand.Rand) error {
	const keys = 500
	key := func() []byte { return fmt.Appendf(nil, "key%06d", r.IntN(keys)) }
	for range 1 + r.IntN(6) {
		b, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "top%d", r.IntN(3)))
		if err != nil {
			return err
		}
		if r.IntN(3) == 0 {
			if b, err = b.CreateBucketIfNotExists(fmt.Appendf(nil, "nested%d", r.IntN(3))); err != nil {
				return err
			}
		}
		switch r.IntN(20) {
		case 0:
			_, err = b.NextSequence()
		case 1, 2, 3, 4:
			err = b.Delete(key())
		case 5:
			for range 20 {
				err = errors.Join(err, b.Delete(key()))
			}
		default:
			size := r.IntN(1500)
			switch r.IntN(60) {
			case 0:
				size = r.IntN(30000)
			case 1:
				size = 40 << 10 // six of them fit in an area
			}
			value := make([]byte, size)
			for i := 0; i+8 < size; i += 64 {
				binary.LittleEndian.PutUint64(value[i:], r.Uint64())
			}
			err = b.Put(key(), value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// history is one life of a database: the states after each step, and what each step tried to make.
type history struct {
	states, tried []uint64
	// unsure is what a step before tried to make of which nobody knows whether a restart finds it.
	unsure   map[int]uint64
	failures int
}

func (h *history) allows(steps int, found uint64) bool {
	unsure, any := h.unsure[steps]
	return found == h.states[steps] || steps < len(h.tried) && found == h.tried[steps] || any && found == unsure
}

// live has a few processes, one after the other, use a database on the disk.
func live(t *testing.T, d *disk, path string, r *rand.Rand, processes, steps int) history {
	h := history{unsure: map[int]uint64{}}
	for range processes {
		db, err := Open(t.Context(), path, d.options())
		for tries := 0; err != nil && d.failIn > 0 && tries < 20; tries++ {
			if tries == 10 { // the dice may fail every one
				d.mu.Lock()
				d.calm = d.operations + 1000
				d.mu.Unlock()
			}
			db, err = Open(t.Context(), path, d.options())
		}
		require.NoError(t, err)
		h.process(t, d, db, r, steps)
		if r.IntN(3) == 0 {
			abandon(db)
			continue
		}
		err = db.Close()
		d.mu.Lock()
		d.keep("closed")
		if err == nil {
			require.NoFileExists(t, path+logSuffix)
			delete(d.files, "wal")
			d.keep("closed, its log gone")
		} else {
			require.Positive(t, d.failIn, err)
		}
		d.mu.Unlock()
	}
	require.Empty(t, d.overlapped, "the system tells only one of those who sync a file at a time of an error")
	return h
}

// process changes a database step by step.
func (h *history) process(t *testing.T, d *disk, db *DB, r *rand.Rand, steps int) {
	now, err := digestOf(db)
	require.NoError(t, err)
	d.mu.Lock()
	if len(h.states) > 0 {
		require.True(t, h.allows(d.steps, now), "what a process finds without a power failure")
		h.tried = append(h.tried[:len(h.states)-1], now)
		d.steps++
	}
	h.states = append(h.states, now)
	d.mu.Unlock()
	var readers sync.WaitGroup
	stop := make(chan struct{})
	defer func() { close(stop); readers.Wait() }()
	readers.Go(func() { // what readers pin must be no matter
		for {
			_ = db.View(func(*Tx) error { time.Sleep(time.Millisecond); return nil })
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	for range steps {
		seed := r.Uint64()
		var tried uint64
		err := db.Update(t.Context(), func(tx *Tx) error {
			if err := changeSome(tx, rand.New(rand.NewPCG(seed, 1))); err != nil {
				return Dirty(err)
			}
			tried = digest(tx)
			d.mu.Lock()
			defer d.mu.Unlock()
			h.tried = append(h.tried[:len(h.states)-1], tried)
			return nil
		})
		d.mu.Lock()
		if len(h.tried) < len(h.states) { // it was not even begun
			h.tried = append(h.tried, h.states[len(h.states)-1])
		}
		if err != nil {
			require.Positive(t, d.failIn, err)
			h.failures++
			if unsure, any := h.unsure[d.steps]; any {
				h.unsure[d.steps+1] = unsure
			}
			if errors.Is(err, ErrUnsure) {
				h.unsure[d.steps+1] = tried
			}
			h.states = append(h.states, h.states[len(h.states)-1])
		} else {
			h.states = append(h.states, tried)
		}
		d.steps++
		d.mu.Unlock()
		if found, err := digestOf(db); err == nil {
			require.Equal(t, h.states[len(h.states)-1], found, "what readers see after a step")
		}
	}
}

// recoverImage opens what a power failure has left, and returns what is in it; the disk tells of moments meanwhile.
func recoverImage(t *testing.T, d *disk, path string) (found uint64, err error) {
	db, err := Open(context.Background(), path, d.options())
	if err != nil {
		return 0, err
	}
	defer abandon(db)
	err = db.View(func(tx *Tx) error { found = digest(tx); return nil })
	return found, errors.Join(err, soundPages(db))
}

// Whatever a power failure leaves of what was not synced: after it, everything is there that was answered, nothing is there
// that was refused, and no page is damaged. The power also fails while the database recovers, and writes and syncs fail.
func TestPowerFailure(t *testing.T) {
	for name, failIn := range map[string]int{"a sound disk": 0, "a disk that fails now and then": 150} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("BOLTDB_POWER_SEED"); s != "" {
				_, err := fmt.Sscan(s, &seed)
				require.NoError(t, err)
			}
			runs := 2
			if s := os.Getenv("BOLTDB_POWER_RUNS"); s != "" {
				_, err := fmt.Sscan(s, &runs)
				require.NoError(t, err)
			}
			var images, nested, failures int
			for run := range runs {
				i, n, f := failPower(t, rand.New(rand.NewPCG(seed, uint64(run))), failIn)
				images, nested, failures = images+i, nested+n, failures+f
				if t.Failed() {
					break
				}
			}
			t.Logf("seed %d: %d power failures, %d during recovery, %d steps refused", seed, images, nested, failures)
			require.Equal(t, failIn > 0, failures > 0)
		})
	}
}

// powerDir is where simulated disks lie: in memory, if there is such a place.
func powerDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "boltdb-power-")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return t.TempDir()
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// failPower has a database live a few times, each time on what one of the power failures of its last life has left.
func failPower(t *testing.T, r *rand.Rand, failIn int) (images, nested, failures int) {
	const lives, processes, steps, mixes = 3, 3, 40, 3
	dir := powerDir(t)
	var content map[string][]byte
	for range lives {
		d := newDisk(r, content)
		d.oneIn, d.failIn = 100, failIn
		path := place(t, filepath.Join(dir, "life"), content)
		if content == nil {
			db, err := Open(t.Context(), path, Options{})
			require.NoError(t, err)
			require.NoError(t, db.Close())
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			d.files["db"] = &diskFile{durable: b}
		}
		d.calm = 60 // to open it comes first
		h := live(t, d, path, r, processes, steps)
		failures += h.failures
		for i, m := range d.moments {
			for mix := range mixes {
				content = map[string][]byte{}
				for name, f := range m.files {
					content[name] = f.image(r)
				}
				images++
				again := newDisk(r, content)
				if mix == 0 && i%4 == 0 {
					again.oneIn = 12
				}
				found, err := recoverImage(t, again, place(t, filepath.Join(dir, "image"), content))
				if err != nil || !h.allows(m.steps, found) {
					t.Errorf("after a power failure at %q: %v; content as it should be: %t", m.what, err, h.allows(m.steps, found))
					return images, nested, failures
				}
				for _, n := range again.moments {
					during := map[string][]byte{}
					for name, f := range n.files {
						during[name] = f.image(r)
					}
					nested++
					got, err := recoverImage(t, newDisk(r, during), place(t, filepath.Join(dir, "nested"), during))
					if err != nil || got != found {
						t.Errorf("after a power failure at %q, and another at %q of the recovery: %v; content as it was found: %t", m.what, n.what, err, got == found)
						return images, nested, failures
					}
				}
			}
		}
	}
	return images, nested, failures
}
