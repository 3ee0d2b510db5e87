package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// notRun are the beginnings of commands that documents show and this test does not run, and why.
var notRun = map[string]string{
	"make ":                "the tests run what it runs",
	"git clone ":           "needs the internet",
	"go install ":          "needs a release on the internet",
	"curl ":                "downloads the Dapr CLI, or calls an app that the quick starts' tests call",
	"dapr ":                "needs Dapr's CLI: TestDaprRun",
	"dapr-bolt dev":        "needs Dapr's CLI: TestDev",
	"dapr-bolt migrate":    "needs servers: TestMigrate of the cluster tests",
	"npm install":          "TestQuickStarts installs into the cache",
	"python3 -m venv ":     "TestQuickStarts installs into the cache",
	"docker ":              "needs a Docker engine",
	"jaeger ":              "is a program of others",
	"OTEL_EXPORTER_":       "needs a collector: TestSpansContinueTheTraceOfTheApp",
	"kubectl ":             "needs a cluster",
	"deploy/overlays/":     "TestClusterServers runs the script",
	"(cd deploy/overlays/": "needs kustomize and an image of the reader's",
	"systemctl ":           "needs a service manager",
}

// atRest are the commands that work while no process runs.
var atRest = []string{"dapr-bolt restore", "dapr-bolt check", "dapr-bolt compact"}

// Every command that a document shows works as it stands, each on a process of its own with twenty dead letters.
func TestCommandsInTheText(t *testing.T) {
	t.Parallel()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	var documents []string
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(checkout.Path(pattern))
		require.NoError(t, err)
		documents = append(documents, found...)
	}
	run := 0
	for _, document := range documents {
		for _, command := range commandsIn(t, document) {
			begins := func(begin string) bool { return strings.HasPrefix(command, begin) }
			if command == "dapr-bolt" || slices.ContainsFunc(slices.Collect(maps.Keys(notRun)), begins) {
				continue
			}
			require.True(t, strings.HasPrefix(command, "dapr-bolt "), "%s: nobody tries %q: run it here, or say in notRun why not", document, command)
			run++
			t.Run(filepath.Base(document)+": "+command, func(t *testing.T) { runDocumented(t, command) })
		}
	}
	require.Positive(t, run)
}

var consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```")

// commandsIn are what stands behind the prompts of a document's console blocks, continued lines joined, without comments.
func commandsIn(t *testing.T, document string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	for _, block := range consoleBlock.FindAllStringSubmatch(string(text), -1) {
		for _, line := range strings.Split(strings.ReplaceAll(block[1], "\\\n", " "), "\n") {
			if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
				command, _, _ = strings.Cut(command, "  #")
				commands = append(commands, strings.TrimSpace(command))
			}
		}
	}
	return commands
}

func runDocumented(t *testing.T, command string) {
	const backup = "/tmp/dapr-backup.db"
	e := newEnv(t)
	c := e.groupClient("shop", "consumerID", "shop", "maxDeliver", "1")
	c.publish("orders", eventIDs(20)...)
	failing := c.consume("orders", "no")
	e.dead(20)
	failing.stop()
	ours := filepath.Join(t.TempDir(), filepath.Base(backup))
	if strings.HasPrefix(command, atRest[0]) {
		require.NoError(t, e.bolt.Command(t.Context(), nil, "backup", ours))
	}
	if slices.ContainsFunc(atRest, func(begin string) bool { return strings.HasPrefix(command, begin) }) {
		require.NoError(t, e.bolt.Stop())
	}
	// A person says yes where a purge asks.
	if strings.Contains(command, " purge ") {
		command += " --yes"
	}
	script := exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(command, backup, ours))
	script.Env = append(os.Environ(), "DAPR_BOLT_DATA_DIR="+e.bolt.DataDir, "DAPR_BOLT_HTTP_LISTEN="+e.bolt.HTTPAddress, "PATH="+filepath.Dir(e.bolt.Path())+":"+os.Getenv("PATH"))
	out, err := script.CombinedOutput()
	require.NoError(t, err, fmt.Sprintf("%s\n%s", command, out))
	require.NotEmpty(t, out, "it says nothing")
}
