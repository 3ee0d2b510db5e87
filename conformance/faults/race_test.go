//go:build race

package faults

// memoryFactor allows for what the race detector, with which dapr-bolt is built too, keeps of all memory that was used.
const memoryFactor = 8
