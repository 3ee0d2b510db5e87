//go:build !race

package harness

// RaceEnabled reports whether the race detector is on; the programs are then built with it.
const RaceEnabled = false
