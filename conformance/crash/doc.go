// Package crash kills dapr-bolt again and again in the middle of work and finds out whether any promise was broken.
package crash
