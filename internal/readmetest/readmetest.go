// Package readmetest holds sections of the README to what the code goes by.
package readmetest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const end = "<!-- /reference -->"

// Check compares what stands between <!-- reference: section --> and <!-- /reference --> with want or, if update is set,
// writes it there. command, shown when they differ, is how to do that.
func Check(t testing.TB, path, section, want string, update bool, command string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	start := fmt.Sprintf("<!-- reference: %s -->", section)
	before, rest, ok := strings.Cut(string(raw), start)
	require.True(t, ok, "the README has no %s", start)
	got, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "the README has no end to %s", start)
	if update {
		require.NoError(t, os.WriteFile(path, []byte(before+start+want+end+after), 0o644))
		return
	}
	require.Equal(t, want, got, "the README's reference of %s is not what the code says: %s", section, command)
}
