// Package suites runs Dapr's official conformance suites for state stores and pub/sub against the running process: over its
// socket, through the runtime's own adapters.
package suites
