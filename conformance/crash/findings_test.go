package crash

import (
	"fmt"
	"sync"
)

// Promise is one thing that may never happen, as a row of the report.
type Promise string

// What is looked for, by the guarantee that it would break.
const (
	LostWrite       Promise = "G1 acknowledged writes that are lost"
	LostEvent       Promise = "G1 accepted events that are not stored"
	LostUpdate      Promise = "G2 updates by ETag that another one overwrote"
	StaleETag       Promise = "G2 calls that passed with an ETag of the past"
	TornTransaction Promise = "G2 transactions of which one half is there"
	TwiceInEffect   Promise = "G2 writes that took effect again under their idempotency key"
	ChangedBytes    Promise = "G3 values that came back changed"
	Undelivered     Promise = "G4 accepted events, owed to a group, neither delivered nor dead"
	Undead          Promise = "G1 writes and events that were answered with an error and are there"
	StillOwed       Promise = "G4 events that a group is still owed at the end"
	StoredTwice     Promise = "G5 duplicates stored within the window"
	Overtaken       Promise = "G6 events that were overtaken"
	TwoHands        Promise = "G7 events in two hands at once"
	Invented        Promise = "-- values and events that nobody wrote"
	DamagedFile     Promise = "-- damaged pages in the file"
)

// promises are the rows in the order of the report.
var promises = []Promise{
	LostWrite, LostEvent, Undead, LostUpdate, StaleETag, TornTransaction, TwiceInEffect, ChangedBytes,
	Undelivered, StillOwed, StoredTwice, Overtaken, TwoHands, Invented, DamagedFile,
}

// findings collects broken promises.
type findings struct {
	mu       sync.Mutex
	counts   map[Promise]int
	examples []string
}

// maxExamples bounds what is told of each broken promise; all are counted.
const maxExamples = 3

func (f *findings) add(p Promise, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = make(map[Promise]int)
	}
	f.counts[p]++
	if f.counts[p] <= maxExamples {
		f.examples = append(f.examples, string(p)+": "+fmt.Sprintf(format, args...))
	}
}

// any reports whether a promise was broken.
func (f *findings) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.counts) > 0
}
