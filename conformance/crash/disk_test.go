package crash

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// noPower is what those read who skip the power cuts.
const noPower = "NO POWER CUTS: a disk that loses its power takes Linux, root and /dev/fuse."

// past is what a file or a folder has been since its last sync, the oldest first; the last is what it is now.
type past[V any] []V

func (p past[V]) now() V { return p[len(p)-1] }

// modelDisk is one folder with files: what a disk must show before a power failure, and all that it may show after it.
type modelDisk struct {
	disk *Disk
	// names has the folder's past: which file each name stood for.
	names past[map[string]*node]
	files map[*node]past[[]byte]
}

func (m *modelDisk) file(t *rapid.T) *node {
	names := slices.Sorted(maps.Keys(m.names.now()))
	if len(names) == 0 {
		return nil
	}
	return m.names.now()[rapid.SampledFrom(names).Draw(t, "file")]
}

func (m *modelDisk) changed(n *node, content []byte) { m.files[n] = append(m.files[n], content) }

func (m *modelDisk) renamed(change func(names map[string]*node)) {
	names := maps.Clone(m.names.now())
	change(names)
	m.names = append(m.names, names)
}

func drawName(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name") }

func (m *modelDisk) create(t *rapid.T) {
	name := drawName(t)
	n, errno := m.disk.create(m.disk.root, name, syscall.S_IFREG|0o600)
	if m.names.now()[name] != nil {
		require.Equal(t, syscall.EEXIST, errno)
		return
	}
	require.Zero(t, errno)
	m.files[n] = past[[]byte]{nil}
	m.renamed(func(names map[string]*node) { names[name] = n })
}

func (m *modelDisk) rename(t *rapid.T) {
	from, to := drawName(t), drawName(t)
	errno := m.disk.rename(m.disk.root, from, m.disk.root, to)
	if m.names.now()[from] == nil {
		require.Equal(t, syscall.ENOENT, errno)
		return
	}
	require.Zero(t, errno)
	if m.names.now()[from] == m.names.now()[to] {
		return // two names of one file, which both stay
	}
	m.renamed(func(names map[string]*node) {
		n := names[from]
		delete(names, from)
		names[to] = n
	})
}

func (m *modelDisk) link(t *rapid.T) {
	name, n := drawName(t), m.file(t)
	if n == nil {
		return
	}
	errno := m.disk.link(n, m.disk.root, name)
	if m.names.now()[name] != nil {
		require.Equal(t, syscall.EEXIST, errno)
		return
	}
	require.Zero(t, errno)
	m.renamed(func(names map[string]*node) { names[name] = n })
}

func (m *modelDisk) remove(t *rapid.T) {
	name := drawName(t)
	errno := m.disk.remove(m.disk.root, name, false)
	if m.names.now()[name] == nil {
		require.Equal(t, syscall.ENOENT, errno)
		return
	}
	require.Zero(t, errno)
	m.renamed(func(names map[string]*node) { delete(names, name) })
}

func (m *modelDisk) write(t *rapid.T) {
	n := m.file(t)
	if n == nil {
		return
	}
	at := rapid.IntRange(0, 3*page).Draw(t, "at")
	data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.IntRange(1, 2*page).Draw(t, "length"))
	written, errno := m.disk.write(n, at, data)
	require.Zero(t, errno)
	require.Equal(t, len(data), written)
	content := slices.Clone(m.files[n].now())
	content = append(content, make([]byte, max(at+len(data)-len(content), 0))...)
	copy(content[at:], data)
	m.changed(n, content)
}

func (m *modelDisk) truncate(t *rapid.T) {
	n := m.file(t)
	if n == nil {
		return
	}
	length := rapid.IntRange(0, 4*page).Draw(t, "length")
	require.Zero(t, m.disk.truncate(n, length))
	content := append(slices.Clone(m.files[n].now()), make([]byte, 4*page)...)[:length]
	for i := len(m.files[n].now()); i < length; i++ {
		content[i] = 0
	}
	m.changed(n, content)
}

func (m *modelDisk) syncFile(t *rapid.T) {
	n := m.file(t)
	if n == nil {
		return
	}
	require.Zero(t, m.disk.syncNode(n))
	m.files[n] = m.files[n][len(m.files[n])-1:]
}

func (m *modelDisk) syncFolder(t *rapid.T) {
	require.Zero(t, m.disk.syncNode(m.disk.root))
	m.names = m.names[len(m.names)-1:]
}

// look compares what the disk shows, which must be what was written last.
func (m *modelDisk) look(t *rapid.T) {
	require.Equal(t, slices.Sorted(maps.Keys(m.names.now())), append([]string(nil), m.disk.List("/")...))
	for name, n := range m.names.now() {
		content, ok := m.disk.Read("/" + name)
		require.True(t, ok)
		require.True(t, bytes.Equal(m.files[n].now(), content), "%s: it is not what was written last", name)
	}
}

// cut turns the power off, and compares what is left with what may be.
func (m *modelDisk) cut(t *rapid.T) {
	m.disk.CutNow()
	m.disk.Release()
	_, errno := m.disk.write(m.disk.root, 0, nil)
	require.Equal(t, syscall.EIO, errno, "without power")
	m.disk.Cut()

	left := maps.Clone(m.disk.root.names)
	for name := range m.mentioned() {
		var allowed []*node
		for _, names := range m.names {
			allowed = append(allowed, names[name])
		}
		require.Contains(t, allowed, left[name], "name %s", name)
	}
	m.names = past[map[string]*node]{left}
	for name, n := range left {
		content, _ := m.disk.Read("/" + name)
		requireAllowed(t, m.files[n], content)
		m.files[n] = past[[]byte]{content}
	}
}

func (m *modelDisk) mentioned() map[string]bool {
	all := make(map[string]bool)
	for _, names := range m.names {
		for name := range names {
			all[name] = true
		}
	}
	return all
}

// requireAllowed wants each sector as it has been since the last sync, and a length that the file has had.
func requireAllowed(t *rapid.T, before past[[]byte], content []byte) {
	lengths := make(map[int]bool)
	for _, b := range before {
		lengths[len(b)] = true
	}
	require.Contains(t, lengths, len(content), "lengths")
	at := func(b []byte, from, to int) []byte {
		part := make([]byte, to-from)
		if from < len(b) {
			copy(part, b[from:])
		}
		return part
	}
	for from := 0; from < len(content); from += sector {
		to := min(from+sector, len(content))
		require.True(t, slices.ContainsFunc(before, func(b []byte) bool {
			return bytes.Equal(at(b, from, to), content[from:to])
		}), "bytes %d to %d have never been like that", from, to)
	}
}

func TestDiskAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := NewDisk(rapid.Uint64().Draw(t, "seed"))
		m := &modelDisk{disk: disk, names: past[map[string]*node]{{}}, files: make(map[*node]past[[]byte])}
		t.Repeat(map[string]func(*rapid.T){
			"":       m.look,
			"create": m.create, "rename": m.rename, "link": m.link, "remove": m.remove,
			"write": m.write, "write again": m.write, "truncate": m.truncate,
			"sync a file": m.syncFile, "sync the folder": m.syncFolder,
			"cut the power": m.cut,
		})
	})
}

// A model that allows much would not notice a disk that does little: what may be left must sometimes be left.
func TestAPowerCutLeavesEveryKindOfRest(t *testing.T) {
	left := make(map[string]int)
	for seed := range uint64(1000) {
		disk := NewDisk(seed)
		file, errno := disk.create(disk.root, "old", syscall.S_IFREG)
		require.Zero(t, errno)
		write := func(at, length int, b byte) {
			_, errno := disk.write(file, at, bytes.Repeat([]byte{b}, length))
			require.Zero(t, errno)
		}
		write(0, page, 'a')
		require.Zero(t, disk.syncNode(file))
		require.Zero(t, disk.syncNode(disk.root))
		write(0, page, 'b')
		write(0, page, 'c')
		write(page, page, 'd')
		require.Zero(t, disk.rename(disk.root, "old", disk.root, "new"))
		disk.CutNow()
		disk.Release()
		disk.Cut()

		names := disk.List("/")
		require.Len(t, names, 1)
		left["name "+names[0]]++
		content, _ := disk.Read(names[0])
		left[fmt.Sprintf("length %d", len(content))]++
		kinds := make(map[byte]bool)
		for _, b := range content[:page] {
			kinds[b] = true
		}
		if len(kinds) > 1 {
			left["first page torn"]++
		} else {
			left["first page "+string(content[:1])]++
		}
		if len(content) == 2*page {
			if second := content[page:]; bytes.Count(second, []byte{'d'}) == page {
				left["second page written"]++
				if content[0] == 'a' {
					left["the later write only"]++
				}
			} else if second[0] == 0 && bytes.Count(second, []byte{0}) == page {
				left["second page empty"]++
			} else {
				left["second page torn"]++
			}
		}
	}
	for _, what := range []string{
		"name old", "name new", "length 4096", "length 8192", "first page a", "first page b", "first page c",
		"first page torn", "second page written", "second page empty", "second page torn", "the later write only",
	} {
		require.Greater(t, left[what], 10, "%s, among %v", what, left)
	}
}

func TestAFailedSyncIsNotMendedByTheNext(t *testing.T) {
	lost := 0
	for seed := range uint64(100) {
		disk := NewDisk(seed)
		file, errno := disk.create(disk.root, "file", syscall.S_IFREG)
		require.Zero(t, errno)
		require.Zero(t, disk.syncNode(disk.root))
		_, errno = disk.write(file, 0, []byte("written"))
		require.Zero(t, errno)
		disk.FailWithin(1, 1, syscall.EIO)
		require.Equal(t, syscall.EIO, disk.syncNode(file))
		require.Equal(t, 1, disk.Failed())
		require.Zero(t, disk.syncNode(file))
		content, _ := disk.Read("file")
		require.Equal(t, "written", string(content), "it still looks as if it were there")
		disk.CutNow()
		disk.Release()
		disk.Cut()
		if content, _ := disk.Read("file"); string(content) != "written" {
			lost++
		}
	}
	require.Positive(t, lost)
	require.Less(t, lost, 100)
}
