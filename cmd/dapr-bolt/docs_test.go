package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/reference"
)

var update = flag.Bool("update", false, "write the flags into the reference instead of comparing them")

// TestReferenceOfFlags holds the reference's list of flags to the flags.
func TestReferenceOfFlags(t *testing.T) {
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
	reference.Check(t, "../../docs/configuration.md", "flags", b.String(), *update, "go test ./cmd/dapr-bolt -run TestReferenceOfFlags -update")
}

// TestReferenceOfCommands holds the reference's list of commands to the commands.
func TestReferenceOfCommands(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n| command | what it does |\n| --- | --- |\n")
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		if cmd.HasParent() && cmd.Runnable() && (!cmd.HasSubCommands() || cmd.Name() == "topics" || cmd.Name() == "buckets") {
			_, usage, _ := strings.Cut(strings.TrimSuffix(cmd.UseLine(), " [flags]"), " ")
			fmt.Fprintf(&b, "| `%s` | %s |\n", usage, cmd.Short)
		}
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				add(sub)
			}
		}
	}
	add(newRoot(&environment{}))
	reference.Check(t, "../../docs/commands.md", "commands", b.String(), *update, "go test ./cmd/dapr-bolt -run TestReferenceOfCommands -update")
}

// TestLinksLeadSomewhere follows the links in the repository's documents to its files and their headings.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, document := range documents(t) {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			path, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "%s: %s", document, m[1])
			if heading != "" {
				require.Contains(t, anchors(t, target), heading, "%s: %s", document, m[1])
			}
		}
	}
}

// anchors are the headings of a document as links name them.
func anchors(t *testing.T, document string) (names []string) {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// documents are the paths of what users read.
func documents(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*.md", "conformance/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		require.NoError(t, err)
		paths = append(paths, found...)
	}
	require.NotEmpty(t, paths)
	return paths
}

// TestTableCellsAreShort holds the tables of the README and the guides to cells that can be taken in at a glance.
func TestTableCellsAreShort(t *testing.T) {
	const most = 20
	for _, document := range documents(t) {
		if dir := filepath.Base(filepath.Dir(document)); dir != "docs" && dir != ".." {
			continue
		}
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		for number, line := range strings.Split(string(text), "\n") {
			if !strings.HasPrefix(line, "|") {
				continue
			}
			for _, cell := range strings.Split(line, "|") {
				if words := len(strings.Fields(cell)); words > most {
					t.Errorf("%s:%d: a table cell has %d words, at most %d: %s", document, number+1, words, most, cell)
				}
			}
		}
	}
}

// The tables of docs/how-it-works.md name files, and functions that are in one of the files beside them.
func TestHowItWorksNamesWhatIsThere(t *testing.T) {
	raw, err := os.ReadFile("../../docs/how-it-works.md")
	require.NoError(t, err)
	_, walk, found := strings.Cut(string(raw), "## The walk of a call")
	require.True(t, found)
	walk, places, found := strings.Cut(walk, "## Where to look")
	require.True(t, found)
	table, prose, found := strings.Cut(walk, "\nA delivery takes")
	require.True(t, found)
	files, functions := 0, 0
	for _, passage := range append(append(strings.Split(table, "\n"), strings.Split(places, "\n")...), prose) {
		folder, declared := "", map[string]bool{}
		quoted := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(passage, -1)
		for _, name := range quoted {
			if filepath.Ext(name[1]) != ".go" {
				continue
			}
			files++
			// A file's name alone is of the folder named before it.
			if folder = cmp.Or(strings.TrimSuffix(filepath.Dir(name[1]), "."), folder); folder == "" {
				require.Fail(t, "a file of no folder", name[1])
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", folder, filepath.Base(name[1])), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					declared[f.Name.Name] = true
				}
			}
		}
		for _, name := range quoted {
			if token.IsIdentifier(name[1]) {
				functions++
				require.True(t, declared[name[1]], "%s in %s", name[1], passage)
			}
		}
	}
	require.Greater(t, files, 40)
	require.Greater(t, functions, 40)
}
