package resubscribe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/renameio/v2"
)

// rollFile is the name of the roll in the data directory.
const rollFile = "streams.json"

// Roll knows which components have streams now, and which had when the last process ended. It is safe for concurrent use.
type Roll struct {
	path string

	mu      sync.Mutex
	open    map[string]int
	missing map[string]int
	// changed is closed and replaced at each change.
	changed chan struct{}
}

type rollRecord struct {
	// Streams counts the open streams by component name.
	Streams map[string]int `json:"streams"`
}

// OpenRoll reads the roll in a data directory. A missing one is empty; one that cannot be read is an error.
func OpenRoll(dataDir string) (*Roll, error) {
	r := &Roll{
		path:    filepath.Join(dataDir, rollFile),
		open:    map[string]int{},
		missing: map[string]int{},
		changed: make(chan struct{}),
	}
	raw, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	var record rollRecord
	if err == nil {
		err = json.Unmarshal(raw, &record)
	}
	if err != nil {
		return nil, fmt.Errorf("read which components had subscriptions: %s: %w; remove the file to go on without it", r.path, err)
	}
	maps.Copy(r.missing, record.Streams)
	return r, nil
}

// Opened notes a stream of a component.
func (r *Roll) Opened(component string) error {
	r.mu.Lock()
	r.open[component]++
	lower(r.missing, component)
	return r.write()
}

// Closed notes that the other side ended a stream. A stream that this process ends is not to be noted: it is owed.
func (r *Roll) Closed(component string) error {
	r.mu.Lock()
	lower(r.open, component)
	return r.write()
}

// Missing lists the components of which streams have not come back.
func (r *Roll) Missing() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.missing))
}

// Forget gives up on what is still missing.
func (r *Roll) Forget() error {
	r.mu.Lock()
	clear(r.missing)
	return r.write()
}

// Changed returns a channel that is closed at the next change.
func (r *Roll) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// write is called with r.mu held and lets go of it. The file is small and seldom written; the lock orders the writes.
func (r *Roll) write() error {
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
	streams := maps.Clone(r.missing)
	for component, n := range r.open {
		streams[component] += n
	}
	raw, err := json.Marshal(rollRecord{Streams: streams})
	if err == nil {
		err = renameio.WriteFile(r.path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note which components have subscriptions: %w", err)
	}
	return nil
}

func lower(counts map[string]int, name string) {
	if counts[name]--; counts[name] <= 0 {
		delete(counts, name)
	}
}
