// Package databasestest helps to test what works on databases.
package databasestest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// RecordsRead returns how many records fn reads of all open databases.
func RecordsRead(t testing.TB, m *databases.Manager, fn func()) uint64 {
	t.Helper()
	read := func() (n uint64) {
		files, err := m.Databases()
		require.NoError(t, err)
		for _, f := range files {
			n += f.Stats.RecordsRead
		}
		return n
	}
	before := read()
	fn()
	return read() - before
}
