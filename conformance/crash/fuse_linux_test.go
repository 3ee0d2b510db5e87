package crash

import (
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount shows the disk at a folder until Unmount. It takes root and /dev/fuse. A process that has files of the disk open
// must not start others: see https://github.com/hanwen/go-fuse#known-problems.
func (d *Disk) Mount(folder string) (unmount func() error, err error) {
	server, err := fuse.NewServer(&mount{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d}, folder, &fuse.MountOptions{
		DirectMountStrict:  true,
		DisableXAttrs:      true,
		DisableReadDirPlus: true,
		MaxWrite:           1 << 20,
		FsName:             "powercut",
		Name:               "powercut",
	})
	if err != nil {
		return nil, fmt.Errorf("mount with FUSE at %s: %w", folder, err)
	}
	go server.Serve()
	return server.Unmount, server.WaitMount()
}

// mount answers the kernel. Its node ids are the disk's.
type mount struct {
	fuse.RawFileSystem
	disk *Disk
}

// node returns what the kernel knows by an id.
func (m *mount) node(id uint64) *node {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.disk.nodes[id]
}

// forever: nobody else changes the disk while it is mounted.
const forever = 1 << 30

func (n *node) attributes(out *fuse.Attr) {
	// More links than the kernel takes away by itself when a name goes.
	out.Ino, out.Mode, out.Nlink, out.Blksize = n.id, n.mode, 2, page
	out.Size = uint64(len(n.now))
	out.Blocks = (out.Size + sector - 1) / sector
}

// entry fills in what a name stands for; the disk must not be locked.
func (m *mount) entry(n *node, errno syscall.Errno, out *fuse.EntryOut) fuse.Status {
	if errno != 0 {
		return fuse.Status(errno)
	}
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	out.NodeId, out.AttrValid, out.EntryValid = n.id, forever, forever
	n.attributes(&out.Attr)
	return fuse.OK
}

func (m *mount) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if errno := m.disk.enter(reading); errno != 0 {
		return fuse.Status(errno)
	}
	n := m.disk.nodes[header.NodeId].names[name]
	m.disk.mu.Unlock()
	if n == nil {
		return fuse.ENOENT
	}
	return m.entry(n, 0, out)
}

func (m *mount) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if errno := m.disk.enter(reading); errno != 0 {
		return fuse.Status(errno)
	}
	defer m.disk.mu.Unlock()
	out.AttrValid = forever
	m.disk.nodes[in.NodeId].attributes(&out.Attr)
	return fuse.OK
}

func (m *mount) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := m.node(in.NodeId)
	if size, ok := in.GetSize(); ok {
		if errno := m.disk.truncate(n, int(size)); errno != 0 {
			return fuse.Status(errno)
		}
	}
	if errno := m.disk.enter(reading); errno != 0 {
		return fuse.Status(errno)
	}
	defer m.disk.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode
	}
	out.AttrValid = forever
	n.attributes(&out.Attr)
	return fuse.OK
}

func (m *mount) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	made, errno := m.disk.create(m.node(in.NodeId), name, syscall.S_IFDIR|in.Mode)
	return m.entry(made, errno, out)
}

func (m *mount) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	made, errno := m.disk.create(m.node(in.NodeId), name, in.Mode)
	return m.entry(made, errno, out)
}

func (m *mount) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	made, errno := m.disk.create(m.node(in.NodeId), name, syscall.S_IFREG|in.Mode)
	return m.entry(made, errno, &out.EntryOut)
}

func (m *mount) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := m.node(in.Oldnodeid)
	return m.entry(n, m.disk.link(n, m.node(in.NodeId), name), out)
}

func (m *mount) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return fuse.Status(m.disk.remove(m.node(header.NodeId), name, false))
}

func (m *mount) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return fuse.Status(m.disk.remove(m.node(header.NodeId), name, true))
}

func (m *mount) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	return fuse.Status(m.disk.rename(m.node(in.NodeId), oldName, m.node(in.Newdir), newName))
}

func (m *mount) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (m *mount) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if errno := m.disk.enter(reading); errno != 0 {
		return nil, fuse.Status(errno)
	}
	defer m.disk.mu.Unlock()
	content := m.disk.nodes[in.NodeId].now
	content = content[min(int(in.Offset), len(content)):]
	return fuse.ReadResultData(buf[:copy(buf, content)]), fuse.OK
}

func (m *mount) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	written, errno := m.disk.write(m.node(in.NodeId), int(in.Offset), data)
	return uint32(written), fuse.Status(errno)
}

func (m *mount) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	const keepSize = 1
	switch in.Mode {
	case keepSize:
		return fuse.OK
	case 0:
		return fuse.Status(m.disk.allocate(m.node(in.NodeId), int(in.Offset+in.Length)))
	}
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (m *mount) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.Status(m.disk.syncNode(m.node(in.NodeId)))
}

func (m *mount) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (m *mount) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if errno := m.disk.enter(reading); errno != 0 {
		return fuse.Status(errno)
	}
	defer m.disk.mu.Unlock()
	names := m.disk.nodes[in.NodeId].names
	sorted := slices.Sorted(maps.Keys(names))
	for _, name := range sorted[min(int(in.Offset), len(sorted)):] {
		if !out.AddDirEntry(fuse.DirEntry{Name: name, Ino: names[name].id, Mode: names[name].mode}) {
			break
		}
	}
	return fuse.OK
}

func (m *mount) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.Status(m.disk.syncNode(m.node(in.NodeId)))
}

func (m *mount) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const plenty = 1 << 24
	out.Bsize, out.Frsize, out.NameLen = page, page, 255
	out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = plenty, plenty, plenty, plenty, plenty
	return fuse.OK
}
