//go:build race

package backlog

const raceEnabled = true
