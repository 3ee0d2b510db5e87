package sidecars

import (
	"slices"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// Session is one connection of a sidecar. It is safe for concurrent use.
type Session struct {
	registry *Registry
	sidecar  access.Process
}

// Connect begins the session of a connection. The caller must Close it when the sidecar has ended the connection. One
// that this process ends is not to be closed: its sidecar comes back.
func (r *Registry) Connect(sidecar access.Process) *Session { return &Session{r, sidecar} }

// Initialized notes what the sidecar said when it initialized a component, in place of what it said before. A failure to
// write that down is logged, and holds up nobody.
func (s *Session) Initialized(k Kind, component string, properties map[string]string) {
	r := s.registry
	r.mu.Lock()
	r.add(&instance{Kind: k, Component: component, Properties: properties, Sidecar: s.sidecar, Time: r.clock.Now().UTC(), session: s})
	r.mu.Unlock()
	if err := r.save(); err != nil {
		r.log.Warn("what a sidecar initialized could not be written down: if this process is started anew, restart that sidecar too",
			"component", component, "error", err)
	}
}

// Find returns what the sidecar's Init of a component may have said, newest first. That is one at most, unless the
// sidecar cannot be told from others: then it is whatever no other connection is known to have said.
func (s *Session) Find(k Kind, component string) (properties []map[string]string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	for _, in := range slices.Backward(s.registry.instances) {
		if s.mayHaveSaid(in, k, component) {
			properties = append(properties, in.Properties)
		}
	}
	return properties
}

// Adopt notes that the sidecar is served with the first of what Find returned.
func (s *Session) Adopt(k Kind, component string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if in := s.newest(k, component); in != nil {
		in.session = s
	}
}

func (s *Session) newest(k Kind, component string) *instance {
	for _, in := range slices.Backward(s.registry.instances) {
		if s.mayHaveSaid(in, k, component) {
			return in
		}
	}
	return nil
}

func (s *Session) mayHaveSaid(in *instance, k Kind, component string) bool {
	return in.is(k, component) && in.Sidecar == s.sidecar && (s.sidecar.Known() || in.session == nil || in.session == s)
}

// StreamOpened notes a subscription of a pub/sub. The caller must call closed when the sidecar has ended it. One that this
// process ends is not to be closed: it is missing after the next start.
func (s *Session) StreamOpened(component string) (closed func()) {
	r := s.registry
	r.mu.Lock()
	in := s.newest(PubSub, component)
	switch {
	case in == nil:
	case in.missing > 0:
		in.missing-- // one that was there before
	default:
		in.Streams++
	}
	r.notify()
	r.mu.Unlock()
	if in == nil {
		return func() {}
	}
	r.saveStreams(component)
	return func() {
		r.mu.Lock()
		in.Streams--
		r.mu.Unlock()
		r.saveStreams(component)
	}
}

func (r *Registry) saveStreams(component string) {
	if err := r.save(); err != nil {
		r.log.Warn("subscriptions may not come back by themselves after the next restart", "component", component, "error", err)
	}
}

// Close ends the session. What a sidecar said that cannot be told from others is forgotten if one of them has
// initialized the component since: that is what it does when the component's metadata changes.
func (s *Session) Close() {
	r := s.registry
	r.mu.Lock()
	kept := r.instances[:0:0]
	for i, in := range r.instances {
		if in.session == s {
			in.session = nil
			since := func(newer *instance) bool { return newer.is(in.Kind, in.Component) && newer.Sidecar == in.Sidecar }
			if !s.sidecar.Known() && slices.ContainsFunc(r.instances[i+1:], since) {
				continue
			}
		}
		kept = append(kept, in)
	}
	forgotten := len(kept) < len(r.instances)
	r.instances = kept
	r.mu.Unlock()
	if !forgotten {
		return
	}
	if err := r.save(); err != nil {
		r.log.Warn("what a sidecar said before its metadata changed could not be struck out", "error", err)
	}
}
