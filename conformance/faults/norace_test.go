//go:build !race

package faults

const memoryFactor = 1
