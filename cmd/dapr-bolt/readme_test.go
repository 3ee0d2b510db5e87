package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/readmetest"
)

var update = flag.Bool("update", false, "write the flags into the README instead of comparing them")

// TestReadmeFlags holds the README's list of flags to the flags.
func TestReadmeFlags(t *testing.T) {
	// Setenv puts back at the end what Unsetenv takes away.
	t.Setenv(component.SocketDirVariable, "")
	require.NoError(t, os.Unsetenv(component.SocketDirVariable))
	root := newRoot(&environment{})
	var b strings.Builder
	b.WriteString("\n| flag | default | meaning |\n| --- | --- | --- |\n")
	add := func(f *pflag.Flag) {
		if len(f.Annotations[envAnnotation]) == 0 {
			return
		}
		usage := strings.TrimSuffix(f.Usage, " [$"+f.Annotations[envAnnotation][0]+"]")
		standard := "none"
		if what, computed, ok := strings.Cut(usage, " (default: "); ok {
			usage, standard = what, strings.TrimSuffix(computed, ")")
		} else if f.DefValue != "" {
			standard = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&b, "| `--%s` %s | %s | %s |\n", f.Name, f.Value.Type(), standard, usage)
	}
	root.PersistentFlags().VisitAll(add)
	root.Flags().VisitAll(add)
	readmetest.Check(t, "../../README.md", "flags", b.String(), *update, "go test ./cmd/dapr-bolt -run TestReadmeFlags -update")
}
