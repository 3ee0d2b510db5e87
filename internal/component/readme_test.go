package component

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the metadata reference into the README instead of comparing it")

// TestReadmeReference holds the README's metadata reference to the tables that the code goes by.
func TestReadmeReference(t *testing.T) {
	const path = "../../README.md"
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	readme := string(raw)
	var names []string
	for _, f := range SubscriptionMetadata() {
		names = append(names, "`"+f.Name+"`")
	}
	for section, want := range map[string]string{
		"state":        "\n" + referenceTable(StateMetadata(testDefaults)),
		"pubsub":       "\n" + referenceTable(PubSubMetadata(testDefaults)),
		"subscription": strings.Join(names, ", "),
	} {
		start, end := fmt.Sprintf("<!-- reference: %s -->", section), "<!-- /reference -->"
		before, rest, ok := strings.Cut(readme, start)
		require.True(t, ok, "the README has no %s", start)
		got, after, ok := strings.Cut(rest, end)
		require.True(t, ok, "the README has no end to %s", start)
		if *update {
			readme = before + start + want + end + after
			continue
		}
		require.Equal(t, want, got, "the README's reference of %s: go test ./internal/component -run TestReadmeReference -update", section)
	}
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(readme), 0o644))
	}
}

func referenceTable(fields []Field) string {
	var b strings.Builder
	b.WriteString("| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range fields {
		standard := "none"
		if f.Default != "" {
			standard = "`" + f.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, standard, f.Allowed, f.Meaning)
	}
	return b.String()
}
