package main

import "runtime/debug"

const (
	// gcPercent lets the heap grow to half as much again as is in use before it is collected; Go's default would let it
	// double. With a backlog of millions of events, what is in use is small and rarely changes, and memory counts for
	// more than the time it takes to look through it.
	gcPercent = 50
	// heapFloor is added to what counts as in use. Without it, a process that keeps next to nothing in memory would be
	// collected after every few hundred calls, which took a third of its time.
	heapFloor = 64 << 20
)

// tuneCollector sets when garbage is collected. What it returns must be kept alive; nobody ever writes to it, and so no
// memory stands behind it.
func tuneCollector() []byte {
	debug.SetGCPercent(gcPercent)
	return make([]byte, heapFloor)
}
