// Package monitoring holds deploy/monitoring to what dapr-bolt says of itself: a real Prometheus scrapes it under load, and
// evaluates what the board and the alerts ask.
package monitoring
