package boltdb

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// bbolt maps a file into memory, and when the file outgrows the mapping, it waits for all readers to end before it maps
// it anew, while new readers wait behind it. A mapping takes address space, neither memory nor disk. So files are mapped
// at a length that they do not reach: maxMapping on machines with 64-bit addresses.
const (
	maxMapping = uint64(256 << 30)
	// minMapping is what is asked for wherever less is to be had.
	minMapping = uint64(1 << 30)
)

// mappingSize returns the length in bytes to map a file at. Where the system lets a process have less address space than
// two mappings of maxMapping, such as under "ulimit -v", it is at most half of what is left: the rest of the process
// needs some, too.
func mappingSize() int {
	if bits.UintSize < 64 {
		return int(minMapping)
	}
	size := maxMapping
	for size > minMapping && !addressSpaceLeft(2*size) {
		size /= 2
	}
	return int(size)
}

// addressSpaceLeft reports whether so many bytes can be mapped.
func addressSpaceLeft(bytes uint64) bool {
	address, err := unix.MmapPtr(-1, 0, nil, uintptr(bytes), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	return err == nil && unix.MunmapPtr(address, uintptr(bytes)) == nil
}
