// Package reference holds marked sections of the documents to what the code goes by, in tests.
package reference

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
	require.True(t, ok, "there is no %s in the document", start)
	got, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "there is no end to %s in the document", start)
	if update {
		require.NoError(t, os.WriteFile(path, []byte(before+start+want+end+after), 0o644))
		return
	}
	require.Equal(t, want, got, "the reference of %s is not what the code says: %s", section, command)
}
