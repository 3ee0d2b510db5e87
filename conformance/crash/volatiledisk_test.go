package crash

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// sector is what a disk writes whole or not at all, page what a kernel writes back at once; both in bytes.
	sector, page = 512, 4096
	// maxSync bounds how long a sync takes beside its own work. What is written meanwhile is not part of it.
	maxSync = 300 * time.Microsecond
)

// Disk is a file system in memory that keeps what is written volatile until it is synced. Cut leaves of it what a power
// failure may leave:
//   - of a file: what was synced, and of what was written since then nothing, everything, the beginning, some pages or
//     some sectors, each in any of its versions; and any of the lengths that it has had since then;
//   - of a folder: the names that were there when it was last synced, and of what was created, linked, renamed or removed
//     since then nothing, everything, the beginning or some. A rename is one step.
//
// A sync that fails leaves what the next sync will not mend: as in Linux, what was written counts as clean.
//
// Modes and owners need no sync, and a change of length downwards is never overtaken by what comes after it.
type Disk struct {
	mu     sync.Mutex
	random *rand.Rand
	root   *node
	nodes  map[uint64]*node

	// steps is how many more calls of a kind, or of one above it, the disk serves before the power goes out; 0: all.
	steps int
	kind  call
	// out is closed when the power is out, and gone when nobody is left who could tell.
	out, gone chan struct{}
	fault     fault
}

// fault is what the disk fails.
type fault struct {
	// after so many writes and syncs, times of them fail with errno.
	after, times int
	errno        syscall.Errno
	failed       int
	// cut: the power goes out soon after.
	cut bool
}

// node is a file or a folder.
type node struct {
	id   uint64
	mode uint32

	// now is what processes see of a file, synced what it was when it was last synced. changes lead from there to
	// now, but for what a failed sync has dropped; dropped counts those that are no longer in it.
	now, synced []byte
	changes     []change
	dropped     int

	names, syncedNames map[string]*node
	renames            []rename
}

// change is a write, or, without data, a change of length.
type change struct {
	at   int
	data []byte
}

// rename is a step in a folder: the names get new nodes, or none.
type rename map[string]*node

// NewDisk returns an empty disk. What chance decides follows from the seed.
func NewDisk(seed uint64) *Disk {
	root := &node{id: 1, mode: syscall.S_IFDIR | 0o755, names: make(map[string]*node)}
	d := &Disk{
		random: rand.New(rand.NewPCG(seed, 0)),
		root:   root,
		nodes:  map[uint64]*node{root.id: root},
		out:    make(chan struct{}),
		gone:   make(chan struct{}),
	}
	root.syncedNames = make(map[string]*node)
	return d
}

// call is a kind of call.
type call int

const (
	reading call = iota
	changing
	syncing
)

// CutWithin makes the power go out before one of the next n changes or syncs, or of the next n syncs, when most is left to
// lose. It returns a channel that is closed when it does. From then on, whoever calls the disk waits until Cut.
func (d *Disk) CutWithin(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps, d.kind = 1+d.random.IntN(n), changing+call(d.random.IntN(2))
	return d.out
}

// CutBeforeSync makes the power go out before the n-th sync from now.
func (d *Disk) CutBeforeSync(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps, d.kind = n, syncing
	return d.out
}

// CutNow makes the power go out.
func (d *Disk) CutNow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.powerOut()
}

func (d *Disk) powerOut() {
	if !d.isOut() {
		close(d.out)
	}
}

// IsOut reports whether the power is out.
func (d *Disk) IsOut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.isOut()
}

func (d *Disk) isOut() bool { return isClosed(d.out) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// FailWithin makes the disk fail writes and syncs with errno: times of them, beginning with one of the next n.
func (d *Disk) FailWithin(n, times int, errno syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault{after: d.random.IntN(n), times: times, errno: errno, failed: d.fault.failed}
}

// FailAndCut makes the disk fail one of the next n writes and syncs with errno, and the power go out before it has made
// four more changes. It returns a channel that is closed when it is out.
func (d *Disk) FailAndCut(n int, errno syscall.Errno) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault{after: d.random.IntN(n), times: 1, errno: errno, cut: true, failed: d.fault.failed}
	return d.out
}

// EndFaults makes the disk work again.
func (d *Disk) EndFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault.times = 0
}

// Failed returns how many writes and syncs have failed since the power was cut.
func (d *Disk) Failed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault.failed
}

// Release ends the waiting of those who have called the disk since the power went out, with EIO. They must be unable to
// tell anybody, which processes are that were killed.
func (d *Disk) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !isClosed(d.gone) {
		close(d.gone)
	}
}

// Cut makes what the disk shows one of the states that the power failure may have left, and turns the power on. The
// disk must not be mounted.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.nodes)
	d.restore(d.root)
	d.steps, d.fault = 0, fault{}
	d.out, d.gone = make(chan struct{}), make(chan struct{})
}

// restore makes a node, and all that is in it, what the power failure has left.
func (d *Disk) restore(n *node) {
	if d.nodes[n.id] != nil {
		return
	}
	d.nodes[n.id] = n
	if !n.isFolder() {
		n.restoreFile(d.random)
		return
	}
	for _, r := range survivors(d.random, n.renames) {
		r.apply(n.syncedNames)
	}
	n.renames = nil
	n.names = maps.Clone(n.syncedNames)
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		// A listening process does not survive.
		d.restore(n.names[name])
	}
}

// survivors are the steps that have reached the disk: none, all, the first ones, or some.
func survivors[S any](random *rand.Rand, steps []S) []S {
	switch random.IntN(6) {
	case 0:
		return nil
	case 1:
		return steps
	case 2:
		return steps[:random.IntN(len(steps)+1)]
	}
	chance := 0.5
	if len(steps) > 4 {
		chance = random.Float64()
	}
	var some []S
	for _, s := range steps {
		if random.Float64() < chance {
			some = append(some, s)
		}
	}
	return some
}

func (r rename) apply(names map[string]*node) {
	for name, n := range r {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

// restoreFile makes a file what the power failure has left.
func (n *node) restoreFile(random *rand.Rand) {
	n.sync(n.barrier(random))
	changes := n.nextToShrink()
	lengths := []int{len(n.synced)}
	for _, c := range changes {
		lengths = append(lengths, max(lengths[len(lengths)-1], c.end()))
	}
	length := lengths[len(lengths)-1]
	if random.IntN(2) == 0 {
		length = lengths[random.IntN(len(lengths))]
	}
	switch random.IntN(6) {
	case 0:
		// Nothing.
	case 1:
		n.sync(len(changes))
	case 2:
		n.sync(random.IntN(len(changes) + 1))
	case 3, 4:
		n.restoreUnits(random, changes, page)
	case 5:
		n.restoreUnits(random, changes, sector)
	}
	n.synced = resize(n.synced, length)
	n.now = slices.Clone(n.synced)
	n.dropped += len(n.changes)
	n.changes = nil
}

// barrier chooses how many changes have surely reached the disk: none, or up to one that made the file shorter.
func (n *node) barrier(random *rand.Rand) int {
	barriers := []int{0}
	length := len(n.synced)
	for i, c := range n.changes {
		if c.data == nil && c.at < length {
			barriers = append(barriers, i+1)
		}
		length = c.lengthAfter(length)
	}
	return barriers[random.IntN(len(barriers))]
}

// nextToShrink returns the changes before the next one that makes the file shorter.
func (n *node) nextToShrink() []change {
	length := len(n.synced)
	for i, c := range n.changes {
		if c.data == nil && c.at < length {
			return n.changes[:i]
		}
		length = c.lengthAfter(length)
	}
	return n.changes
}

// restoreUnits puts some units of the file into one of the versions that they have had since the last sync.
func (n *node) restoreUnits(random *rand.Rand, changes []change, unit int) {
	writes := make(map[int][]change)
	for _, c := range changes {
		for u := c.at / unit; u*unit < c.end(); u++ {
			if c.data != nil {
				writes[u] = append(writes[u], c)
			}
		}
	}
	chance := random.Float64()
	for _, u := range slices.Sorted(maps.Keys(writes)) {
		if random.Float64() >= chance {
			continue
		}
		newest := len(writes[u])
		if random.IntN(2) == 0 {
			newest = 1 + random.IntN(newest)
		}
		for _, c := range writes[u][:newest] {
			from, to := max(c.at, u*unit), min(c.end(), (u+1)*unit)
			change{from, c.data[from-c.at : to-c.at]}.apply(&n.synced)
		}
	}
}

func (c change) end() int { return c.at + len(c.data) }

func (c change) lengthAfter(length int) int {
	if c.data == nil {
		return c.at
	}
	return max(length, c.end())
}

func (c change) apply(content *[]byte) {
	*content = resize(*content, c.lengthAfter(len(*content)))
	copy((*content)[c.at:], c.data)
}

func resize(content []byte, length int) []byte {
	if length <= len(content) {
		clear(content[length:])
		return content[:length]
	}
	if length <= cap(content) {
		return content[:length]
	}
	return append(slices.Grow(content, length-len(content)), make([]byte, length-len(content))...)
}

func (n *node) isFolder() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// sync makes the first changes, counted from the last sync, last.
func (n *node) sync(upTo int) {
	for _, c := range n.changes[:upTo] {
		c.apply(&n.synced)
	}
	n.drop(upTo)
}

func (n *node) drop(upTo int) {
	n.dropped += upTo
	n.changes = slices.Clone(n.changes[upTo:])
}

// enter begins a call and locks the disk, or returns EIO without, when the power is out and nobody is left. The call may
// be what the power goes out before.
func (d *Disk) enter(c call) syscall.Errno {
	d.mu.Lock()
	if c >= d.kind && d.steps > 0 {
		if d.steps--; d.steps == 0 {
			d.powerOut()
		}
	}
	if !d.isOut() {
		return 0
	}
	gone := d.gone
	d.mu.Unlock()
	<-gone
	return syscall.EIO
}

// failing returns the error with which the disk fails a write or a sync, or 0.
func (d *Disk) failing() syscall.Errno {
	f := &d.fault
	switch {
	case f.times == 0:
		return 0
	case f.after > 0:
		f.after--
		return 0
	}
	f.times--
	f.failed++
	if f.cut {
		d.steps, d.kind = 1+d.random.IntN(4), changing
	}
	return f.errno
}

// write returns how many bytes it has written. A write that fails may have written the beginning, or everything.
func (d *Disk) write(n *node, at int, data []byte) (int, syscall.Errno) {
	if errno := d.enter(changing); errno != 0 {
		return 0, errno
	}
	defer d.mu.Unlock()
	errno := d.failing()
	if errno != 0 {
		if d.random.IntN(2) == 0 {
			data = data[:d.random.IntN(len(data)/sector+1)*sector]
		}
	}
	if len(data) > 0 {
		d.change(n, change{at, slices.Clone(data)})
	}
	if errno != 0 {
		return 0, errno
	}
	return len(data), 0
}

func (d *Disk) change(n *node, c change) {
	n.changes = append(n.changes, c)
	c.apply(&n.now)
}

// truncate changes a file's length.
func (d *Disk) truncate(n *node, length int) syscall.Errno {
	if errno := d.enter(changing); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	if length != len(n.now) {
		d.change(n, change{at: length})
	}
	return 0
}

// allocate makes a file at least as long as this.
func (d *Disk) allocate(n *node, length int) syscall.Errno {
	if errno := d.enter(changing); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	if errno := d.failing(); errno != 0 {
		return errno
	}
	if length > len(n.now) {
		d.change(n, change{at: length})
	}
	return 0
}

// syncNode syncs a file or a folder.
func (d *Disk) syncNode(n *node) syscall.Errno {
	if errno := d.enter(syncing); errno != 0 {
		return errno
	}
	if n.isFolder() {
		defer d.mu.Unlock()
		errno := d.failing()
		if errno == 0 {
			for _, r := range n.renames {
				r.apply(n.syncedNames)
			}
			n.renames = nil
		}
		return errno
	}
	upTo, takes := n.dropped+len(n.changes), time.Duration(d.random.Int64N(int64(maxSync)))
	d.mu.Unlock()
	if takes > maxSync/2 {
		time.Sleep(takes)
	}
	if errno := d.enter(reading); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	if errno := d.failing(); errno != 0 {
		n.sync(d.random.IntN(len(n.changes) + 1))
		n.drop(len(n.changes))
		return errno
	}
	n.sync(max(upTo-n.dropped, 0))
	return 0
}

// create makes a file, folder or socket of a name that is free.
func (d *Disk) create(folder *node, name string, mode uint32) (*node, syscall.Errno) {
	if errno := d.enter(changing); errno != 0 {
		return nil, errno
	}
	defer d.mu.Unlock()
	if folder.names[name] != nil {
		return nil, syscall.EEXIST
	}
	made := &node{id: uint64(len(d.nodes)) + 1, mode: mode}
	for d.nodes[made.id] != nil {
		made.id++
	}
	if made.isFolder() {
		made.names, made.syncedNames = make(map[string]*node), make(map[string]*node)
	}
	d.nodes[made.id] = made
	folder.step(rename{name: made})
	return made, 0
}

func (n *node) step(r rename) {
	n.renames = append(n.renames, r)
	r.apply(n.names)
}

// link gives a file one more name, which must be free.
func (d *Disk) link(n, folder *node, name string) syscall.Errno {
	if errno := d.enter(changing); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	if folder.names[name] != nil {
		return syscall.EEXIST
	}
	folder.step(rename{name: n})
	return 0
}

// remove takes a name away. What it names must be a folder, an empty one, or must not be.
func (d *Disk) remove(folder *node, name string, isFolder bool) syscall.Errno {
	if errno := d.enter(changing); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	switch n := folder.names[name]; {
	case n == nil:
		return syscall.ENOENT
	case n.isFolder() && !isFolder:
		return syscall.EISDIR
	case !n.isFolder() && isFolder:
		return syscall.ENOTDIR
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	folder.step(rename{name: nil})
	return 0
}

// rename gives what has a name another one, and takes that away from what had it. Folders cannot be replaced.
func (d *Disk) rename(from *node, oldName string, to *node, newName string) syscall.Errno {
	if errno := d.enter(changing); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	n, replaced := from.names[oldName], to.names[newName]
	switch {
	case n == nil:
		return syscall.ENOENT
	case replaced == n:
		return 0
	case replaced != nil && replaced.isFolder():
		return syscall.EEXIST
	case from == to:
		from.step(rename{oldName: nil, newName: n})
	default:
		to.step(rename{newName: n})
		from.step(rename{oldName: nil})
	}
	return 0
}

// find returns what lies at a path, nil: nothing.
func (d *Disk) find(path string) *node {
	n := d.root
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if n == nil || name == "" {
			break
		}
		n = n.names[name]
	}
	return n
}

// Read returns what is stored in a file, or false if there is none.
func (d *Disk) Read(path string) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.find(path)
	if n == nil || n.isFolder() {
		return nil, false
	}
	return slices.Clone(n.now), true
}

// List returns the names in a folder, sorted.
func (d *Disk) List(path string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.find(path)
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.names))
}
