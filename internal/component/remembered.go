package component

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/jonboulle/clockwork"
)

const (
	// rememberedFile is where Init's metadata stands in the state directory, as JSON.
	rememberedFile = "instances.json"
	// rememberedVersion is the file's format.
	rememberedVersion = 1
	// maxRemembered bounds the instances in the file; the oldest are forgotten first.
	maxRemembered = 256
	// maxInitMetadata bounds what one Init may give to remember, in bytes.
	maxInitMetadata = 64 << 10
)

// kind is a component type.
type kind string

const (
	kindState  kind = "state"
	kindPubSub kind = "pubsub"
)

// instance is what a sidecar's Init said.
type instance struct {
	Kind       kind              `json:"kind"`
	Component  string            `json:"component"`
	Properties map[string]string `json:"properties"`
	Sidecar    process           `json:"sidecar"`
	Time       time.Time         `json:"time"`
}

// remembered keeps the metadata of Init on disk: after this process was restarted, sidecars dial again but never call
// Init again.
type remembered struct {
	path  string // empty: nothing survives a restart
	clock clockwork.Clock
	// turn is held by the one who writes the file.
	turn chan struct{}

	mu        sync.Mutex
	instances []instance // oldest first
}

// recall reads what was remembered in dir. A file that cannot be understood is reported and begun anew: sidecars that
// are started later are none the worse for it.
func recall(dir string, clock clockwork.Clock, log *slog.Logger) (*remembered, error) {
	r := &remembered{clock: clock, turn: make(chan struct{}, 1)}
	if dir == "" {
		return r, nil
	}
	r.path = filepath.Join(dir, rememberedFile)
	data, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recall initialized components: %w", err)
	}
	var file rememberedJSON
	switch err := json.Unmarshal(data, &file); {
	case err != nil:
		log.Error("the record of initialized components is damaged; sidecars that are running must be restarted", "file", r.path, "error", err)
	case file.Version != rememberedVersion:
		log.Error("the record of initialized components is of another version; sidecars that are running must be restarted", "file", r.path, "version", file.Version)
	default:
		r.instances = file.Instances
	}
	return r, nil
}

type rememberedJSON struct {
	Version   int        `json:"version"`
	Instances []instance `json:"instances"`
}

// put remembers one more Init. It is on disk when put returns nil.
func (r *remembered) put(in instance) error {
	size := 0
	for k, v := range in.Properties {
		size += len(k) + len(v)
	}
	if size > maxInitMetadata {
		return &ValueError{Field: "metadata", Value: fmt.Sprintf("of %d bytes", size), Allowed: fmt.Sprintf("at most %d bytes", maxInitMetadata)}
	}
	in.Time = r.clock.Now().UTC()

	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.mu.Lock()
	before := r.instances
	r.mu.Unlock()
	after := prune(append(slices.DeleteFunc(slices.Clone(before), in.replaces), in))
	if r.path != "" {
		data, err := json.MarshalIndent(rememberedJSON{Version: rememberedVersion, Instances: after}, "", "  ")
		if err == nil {
			err = renameio.WriteFile(r.path, data, 0o600, renameio.IgnoreUmask())
		}
		if err != nil {
			return fmt.Errorf("remember an initialized component: %w", err)
		}
	}
	r.mu.Lock()
	r.instances = after
	r.mu.Unlock()
	return nil
}

// replaces says whether what old said no longer holds now that in was said. Two sidecars that cannot be told apart may
// have said different things.
func (in instance) replaces(old instance) bool {
	return old.Kind == in.Kind && old.Component == in.Component && old.Sidecar == in.Sidecar &&
		(in.Sidecar.known() || maps.Equal(old.Properties, in.Properties))
}

// prune forgets what sidecars said that have ended, except for the newest of each component: that is what the next one
// will most likely say, and it is all there is where a sidecar's process cannot be seen.
func prune(instances []instance) []instance {
	type name struct {
		kind      kind
		component string
	}
	newest := make(map[name]int, len(instances))
	for i, in := range instances {
		newest[name{in.Kind, in.Component}] = i
	}
	kept := instances[:0:0]
	for i, in := range instances {
		if newest[name{in.Kind, in.Component}] == i || !in.Sidecar.known() || in.Sidecar.alive() {
			kept = append(kept, in)
		}
	}
	return kept[max(len(kept)-maxRemembered, 0):]
}

// find returns what the sidecar said on Init of the component; if that is not known, what any sidecar said, newest first.
func (r *remembered) find(k kind, component string, sidecar process) []instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []instance
	for _, in := range slices.Backward(r.instances) {
		if in.Kind != k || in.Component != component {
			continue
		}
		if sidecar.known() && in.Sidecar == sidecar {
			return []instance{in}
		}
		found = append(found, in)
	}
	return found
}
