// Package sidecars keeps on disk what must be known of sidecars after this process was started anew.
//
// A sidecar calls Init once for each component and opens each subscription's stream once. When the component's process
// is started again, it dials again and calls on, as if nothing had happened. So what Init said, and which subscriptions
// a sidecar had, must outlive the process.
//
// A Registry is the file. A Session is one connection of a sidecar: it says what its sidecar's Init said, looks up what
// was said before, and counts the subscriptions that are open.
//
//	session := registry.Connect(process)
//	defer session.Close()
//	err := session.Initialized(sidecars.PubSub, "orders", properties)
//
// A sidecar is told from others by its process. Outside our PID namespace that takes Linux 6.9. Where it cannot be told,
// what it said belongs to its connection: the next Init of the same component takes its place once that is closed.
package sidecars
