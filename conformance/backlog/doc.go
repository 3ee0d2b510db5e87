// Package backlog measures what events that nobody has consumed yet cost the process: memory, speed and disk.
package backlog
