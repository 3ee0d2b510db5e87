// Package faults tests, with real processes, what dapr-bolt does when what it stands on fails, and when somebody means
// it ill.
package faults
