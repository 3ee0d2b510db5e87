package component

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/reference"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

var update = flag.Bool("update", false, "write the metadata reference into the reference instead of comparing it")

// TestReferenceOfMetadata holds the metadata reference to the tables that the code goes by.
func TestReferenceOfMetadata(t *testing.T) {
	var names []string
	for _, f := range SubscriptionMetadata() {
		names = append(names, "`"+f.Name+"`")
	}
	for section, want := range map[string]string{
		"state":          "\n" + referenceTable(StateMetadata()),
		"pubsub":         "\n" + referenceTable(PubSubMetadata()),
		"subscription":   strings.Join(names, ", "),
		"latest time":    "up to " + pubsub.LatestTime.Format(time.RFC3339),
		"event metadata": fmt.Sprintf("at most %d entries and %d bytes of metadata", pubsub.MaxMetadataEntries, pubsub.MaxMetadataBytes),
	} {
		reference.Check(t, "../../docs/configuration.md", section, want, *update, "go test ./internal/component -run TestReferenceOfMetadata -update")
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
