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
	for _, d := range stateDifferences() {
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

// difference is what a metadata key or a promise means on the engine in the file, and on the one for many nodes.
type difference struct{ Of, Bolt, Cluster string }

// stateDifferences lists every metadata key of the state store that both engines have, and every promise.
func stateDifferences() []difference {
	const same = "the same"
	return []difference{
		{"`database`", "the file `<data-dir>/<database>.db`", "a part of the keys' names in etcd"},
		{"`bucket`", "the bucket in that file", "a part of the keys' names in etcd"},
		{"`cleanupInterval`", "how often the process sweeps; the shortest of all components holds", "how often the one process sweeps that holds a lease; another takes over 90 s after it was killed"},
		{"`idempotencyWindow`", "counted by the process's clock", "counted by the clock of the process that takes the call: keep the nodes' clocks together"},
		{"`queryIndexes`", "entries in the file", "entries in etcd; each change of an entry is an operation of the write's transaction"},
		{"`ttlInSeconds`", "counted by the process's clock", "counted by the clock of each process: keep the nodes' clocks together"},
		{"written is written", "synced to the disk", "synced to the disks of most servers"},
		{"linearizable calls", "one process has the file", "with any number of processes, and while servers are lost"},
		{"ETags", "name one version of one key for ever; none of another file is taken", same + "; none of another cluster, prefix or bucket is taken"},
		{"transactions, idempotency keys, first-write", "all or nothing", same},
		{"values come back byte for byte", "up to 4128768 bytes", "up to the servers' `--max-request-bytes` less 64 KiB, at most 4128768 bytes; larger ones are refused with 413"},
		{"operations of one transaction", "up to 10000", "up to half of `--max-txn-ops` of the servers, less one: 2047 as shipped; Dapr is told so"},
		{"queries and bulk gets see one snapshot", "for as long as they take", "for as long as etcd keeps old revisions (`--auto-compaction-retention`); then they fail and say so"},
		{"when there is no room", "the disk is full: writes fail, reads go on", "`--quota-backend-bytes` is reached: writes fail, reads go on; compact, defragment and disarm the alarm"},
		{"when it cannot be reached", "does not arise", "calls fail after `requestTimeout`, `/readyz` names the servers that do not answer, and all resumes by itself"},
		{"a write that failed because of that", "does not arise", "may have taken place: an `idempotencyKey` makes it safe to repeat"},
		{"`dapr-bolt backup`, `check`, `compact`", "work on the file", "are etcd's: `etcdctl snapshot save`, `etcdctl endpoint hashkv`, `etcdctl defrag`"},
	}
}
