package boltdb

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A file that outgrows its mapping makes its writer wait for all readers, and new readers for the writer.
func TestNoReadAndNoWriteWaitsForAFileToBeMappedAnew(t *testing.T) {
	db := open(t)
	require.GreaterOrEqual(t, mappedBytes(t, db.Path()), uint64(256<<30), "how large a file may get before it is mapped anew")
}

// Nor does the writer, which has the file open to read all the time, wait for itself.
func TestAFileThatOutgrowsItsMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("k", "v")))
	require.NoError(t, db.Close())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	size, pageSize := int64(mappingSize()), int64(os.Getpagesize())
	require.NoError(t, f.Truncate(size))
	for page := range int64(2) { // all but two of its pages count as used
		raw := make([]byte, metaLength)
		_, err := f.ReadAt(raw, page*pageSize+pageHeader)
		require.NoError(t, err)
		binary.NativeEndian.PutUint64(raw[metaHighWater:], uint64(size/pageSize-2))
		sum := fnv.New64a()
		_, _ = sum.Write(raw[:metaChecksum])
		binary.NativeEndian.PutUint64(raw[metaChecksum:], sum.Sum64())
		_, err = f.WriteAt(raw, page*pageSize+pageHeader)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	db, err = Open(t.Context(), path, Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(t.Context(), put("large", strings.Repeat("v", 100<<10))))
	require.NoError(t, db.do(t.Context(), db.checkpointNow))
	require.Len(t, get(t, db, "large"), 100<<10)
	require.NoError(t, db.Close())
}

// limitedEnv makes the test binary open the file it names with as much address space as "ulimit -v" leaves some.
const limitedEnv = "BOLTDB_TEST_LIMITED"

func TestAFileOpensWhereAddressSpaceIsLimited(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), limitedEnv+"="+filepath.Join(t.TempDir(), "test.db"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	mapped, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	require.NoError(t, err, "%s", out)
	require.GreaterOrEqual(t, mapped, uint64(1<<30))
	require.LessOrEqual(t, mapped, uint64(4<<30), "the rest of the process needs some, too")
}

// openLimited opens a file where the process has 8 GiB of address space left, and says how much of it is mapped.
func openLimited(path string) error {
	const left = 8 << 30
	var taken uint64
	if _, err := fmt.Sscan(firstField("/proc/self/statm"), &taken); err != nil {
		return err
	}
	limit := taken*uint64(os.Getpagesize()) + left
	if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	db, err := Open(context.Background(), path, Options{})
	if err != nil {
		return err
	}
	mapped, err := mapping(path)
	if err != nil {
		return err
	}
	fmt.Println(mapped)
	return db.Close()
}

func firstField(path string) string {
	raw, _ := os.ReadFile(path)
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

func mappedBytes(t *testing.T, path string) uint64 {
	t.Helper()
	bytes, err := mapping(path)
	require.NoError(t, err)
	return bytes
}

// mapping returns how many bytes are mapped of the file at path, by proc_pid_maps(5).
func mapping(path string) (bytes uint64, err error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), " "+path) {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); err != nil {
			return 0, err
		}
		bytes += to - from
	}
	return bytes, nil
}

func init() {
	if path := os.Getenv(limitedEnv); path != "" {
		if err := openLimited(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}
