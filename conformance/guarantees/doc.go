// Package guarantees tests, through real processes only, what dapr-bolt promises the people who run it: dapr-bolt itself,
// Dapr's own sidecar, and apps behind it.
package guarantees
