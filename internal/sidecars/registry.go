package sidecars

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
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

const (
	// fileName is the file in the data directory.
	fileName = "sidecars.json"
	// fileVersion is its format: fileJSON.
	fileVersion = 1
	// maxInstances bounds the instances in the file. The oldest of those that have no connection are forgotten first.
	maxInstances = 256
)

// Kind is a component type.
type Kind string

// What a sidecar can initialize.
const (
	State  Kind = "state"
	PubSub Kind = "pubsub"
)

// consumerID is the metadata key of a pub/sub that names the app's consumer group.
const consumerID = "consumerID"

// Options for Open; the zero value of each is the documented default.
type Options struct {
	// Dir is an existing folder for the file. Default: nothing is kept on disk.
	Dir string
	// Clock default: the system's.
	Clock clockwork.Clock
	// Logger default: slog.Default().
	Logger *slog.Logger
}

// Registry knows which sidecars have initialized which components, and which of their subscriptions have not come back
// since this process was started. It is safe for concurrent use.
type Registry struct {
	path  string // empty: nothing is kept on disk
	clock clockwork.Clock
	log   *slog.Logger

	// writing is held by the one who writes the file, so that the newest is written last.
	writing sync.Mutex

	mu        sync.Mutex
	instances []*instance // oldest first
	// changed is closed and replaced when subscriptions come back.
	changed chan struct{}
}

// instance is what a sidecar said when it initialized a component.
type instance struct {
	Kind       Kind              `json:"kind"`
	Component  string            `json:"component"`
	Properties map[string]string `json:"properties"`
	Sidecar    access.Process    `json:"sidecar"`
	Time       time.Time         `json:"time"`
	// Streams are the subscriptions that are open, and those that the last process had and that have not come back.
	Streams int `json:"streams,omitempty"`

	// missing are those of Streams that have not come back.
	missing int
	// session is the connection that said this, or that was served with it; nil: it is closed.
	session *Session
}

type fileJSON struct {
	Version   int         `json:"version"`
	Instances []*instance `json:"instances"`
}

// Open reads the file. One that cannot be understood is reported and begun anew: sidecars that are started later are none
// the worse for it.
func Open(o Options) (*Registry, error) {
	r := &Registry{clock: o.Clock, log: o.Logger, changed: make(chan struct{})}
	if r.clock == nil {
		r.clock = clockwork.NewRealClock()
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if o.Dir == "" {
		return r, nil
	}
	r.path = filepath.Join(o.Dir, fileName)
	data, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which components sidecars have initialized: %w", err)
	}
	var file fileJSON
	switch err := json.Unmarshal(data, &file); {
	case err != nil:
		r.log.Error("the record of initialized components is damaged; sidecars that are running must be restarted", "file", r.path, "error", err)
	case file.Version != fileVersion:
		r.log.Error("the record of initialized components is of another version; sidecars that are running must be restarted", "file", r.path, "version", file.Version)
	default:
		r.instances = slices.DeleteFunc(file.Instances, func(in *instance) bool { return in == nil })
		for _, in := range r.instances {
			in.missing = in.Streams
		}
	}
	return r, nil
}

// Missing lists the components of which living sidecars had subscriptions that have not come back. What is missing stays
// so, also over restarts, until its sidecar has initialized the component again or has ended.
func (r *Registry) Missing() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make(map[string]bool)
	for _, in := range r.instances {
		if in.missing > 0 && !in.Sidecar.Ended() {
			names[in.Component] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Changed returns a channel that is closed when a subscription comes back.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// add puts an instance in the place of those that it replaces. It is called with r.mu held.
func (r *Registry) add(in *instance) {
	kept := r.instances[:0:0]
	for _, old := range r.instances {
		if old.Sidecar.Ended() || in.replaces(old) {
			continue
		}
		if in.succeeds(old) {
			old.Streams, old.missing = old.Streams-old.missing, 0
		}
		kept = append(kept, old)
	}
	kept = append(kept, in)
	for len(kept) > maxInstances {
		oldest := max(0, slices.IndexFunc(kept, func(old *instance) bool { return old.session == nil }))
		kept = slices.Delete(kept, oldest, oldest+1)
	}
	r.instances = kept
	r.notify()
}

// is reports whether the instances are of one component, as far as its name and type tell.
func (in *instance) is(k Kind, component string) bool {
	return in.Kind == k && in.Component == component
}

// replaces reports whether what old said does not hold any more now that in was said.
func (in *instance) replaces(old *instance) bool {
	switch {
	case !old.is(in.Kind, in.Component) || old.Sidecar != in.Sidecar:
		return false
	case in.Sidecar.Known():
		return true
	default:
		return old.session == nil || old.session == in.session
	}
}

// succeeds reports whether the subscriptions that old misses are taken to be in's, which is another sidecar of the same
// app, because it cannot be told whether old's sidecar has ended.
func (in *instance) succeeds(old *instance) bool {
	return old.is(in.Kind, in.Component) && old.session == nil && old.Sidecar.PID == 0 &&
		old.Properties[consumerID] == in.Properties[consumerID]
}

// notify is called with r.mu held.
func (r *Registry) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// save writes the file.
func (r *Registry) save() error {
	if r.path == "" {
		return nil
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	data, err := json.MarshalIndent(fileJSON{Version: fileVersion, Instances: r.instances}, "", "  ")
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return durable.WriteFile(r.path, data, 0o600)
}

// Sidecar is a component that a sidecar has initialized.
type Sidecar struct {
	Kind       Kind
	Component  string
	Properties map[string]string
	Process    access.Process
	// Since is when it has.
	Since time.Time
	// Connected reports whether its connection is open, and Streams counts its subscriptions.
	Connected bool
	Streams   int
}

// App returns the app's id, which only a pub/sub is told; empty: it is not known.
func (s *Sidecar) App() string { return s.Properties[consumerID] }

// Property looks a key of the metadata up, whatever its case.
func (s *Sidecar) Property(key string) string {
	for name, value := range s.Properties {
		if strings.EqualFold(name, key) {
			return value
		}
	}
	return ""
}

// Sidecars lists what sidecars have initialized that may still run, the oldest first.
func (r *Registry) Sidecars() []Sidecar {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Sidecar
	for _, in := range r.instances {
		if in.Sidecar.Ended() {
			continue
		}
		all = append(all, Sidecar{
			Kind: in.Kind, Component: in.Component, Properties: in.Properties, Process: in.Sidecar,
			Since: in.Time, Connected: in.session != nil, Streams: in.Streams - in.missing,
		})
	}
	return all
}
