// Package suites runs Dapr's official conformance suites for state stores and pub/sub against dapr-bolt: in process, and
// over the socket of the running process through the runtime's own adapters.
package suites
