// Package e2e tests, through real processes only, what dapr-bolt promises the people who run it: dapr-bolt itself, Dapr's
// own sidecar, and apps behind it. A file is about one thing that users see: values, refusals, order, dead letters, actors.
//
// The story of the todo app, TestStory, is what `make demo` plays.
package e2e
