// Package sweep measures what the removal of state that has ended costs those who use the store meanwhile.
package sweep
