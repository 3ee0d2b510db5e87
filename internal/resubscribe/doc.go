// Package resubscribe brings an app's subscriptions back after the process restarted.
//
// Dapr's sidecar opens each subscription's stream once. When the component's process ends, the sidecar reports "Failed to
// receive pubsub message" and never opens the stream again (dapr v1.18, pkg/components/pubsub/pluggable.go), so that the
// app gets no more events although everything looks healthy. What makes a sidecar subscribe anew is a changed value in
// the component's file, by way of its hot reload, or its own restart.
//
// Run asks for the subscriptions that do not come back by themselves; which those are, package sidecars knows.
package resubscribe
