package suites

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// childVariable names, in a child process, the test whose suite it is to run.
const childVariable = "DAPR_BOLT_SUITE"

// official runs one official suite in a child process, because only the child's output tells which sub-tests there were.
// It demands that exactly want of them ran, passed, and that none was skipped; prints the count; and shows the output if
// that does not hold.
//
// The number belongs to the components-contrib version in go.mod: a new version may change it, an edit here may not
// lower it.
func official(t *testing.T, name string, want int, run func(t *testing.T)) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		run(t)
		return
	}
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	out, err := cmd.CombinedOutput()

	passed := outcomes(out, "PASS", t.Name())
	fmt.Printf("official %s: %d sub-tests passed\n", name, len(passed))
	require.NoError(t, err, "%s", out)
	require.Empty(t, outcomes(out, "SKIP", t.Name()), "%s", out)
	require.Equal(t, want, len(passed), "how many sub-tests passed\n%s", out)
}

// outcomes lists the sub-tests of a test that ended as outcome says.
func outcomes(out []byte, outcome, test string) []string {
	line := regexp.MustCompile(`^\s*--- ` + outcome + `: ` + regexp.QuoteMeta(test) + `/(.+) \([0-9.]+s\)$`)
	var names []string
	for text := range bytes.Lines(out) {
		if m := line.FindSubmatch(bytes.TrimRight(text, "\r\n")); m != nil {
			names = append(names, string(m[1]))
		}
	}
	return names
}

func TestOutcomes(t *testing.T) {
	out := []byte("=== RUN   TestA/x\n    --- PASS: TestA/x (0.10s)\n        --- PASS: TestA/x/y_z (0.00s)\n" +
		"    --- SKIP: TestA/w (0.00s)\n    --- PASS: TestAB/x (0.00s)\n--- PASS: TestA (0.10s)\n")
	require.Equal(t, []string{"x", "x/y_z"}, outcomes(out, "PASS", "TestA"))
	require.Equal(t, []string{"w"}, outcomes(out, "SKIP", "TestA"))
}
