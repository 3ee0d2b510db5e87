package component

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/reference"
)

// TestDifferences holds the table in docs/cluster.md to the code, and sees that no key is left out.
func TestDifferences(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n| of | `engine: bolt` | `engine: etcd` |\n| --- | --- | --- |\n")
	listed := map[string]bool{}
	for _, d := range StateDifferences() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", d.Of, d.Bolt, d.Cluster)
		listed[d.Of] = true
	}
	reference.Check(t, "../../docs/cluster.md", "state on etcd", b.String(), *update, "go test ./internal/component -run TestDifferences -update")
	for _, f := range StateMetadata(testDefaults) {
		if f.Name == "engine" {
			break // what follows is for etcd alone
		}
		require.True(t, listed["`"+f.Name+"`"], "%s: what does it mean on etcd?", f.Name)
	}
}
