package component

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/reference"
)

// TestDifferences holds the tables of the engines for many nodes to the code, and sees that no key is left out.
func TestDifferences(t *testing.T) {
	for _, test := range []struct {
		file, section, engine string
		differences           []difference
		keys                  []Field
	}{
		{"cluster.md", "state on etcd", engineEtcd, stateDifferences(), StateMetadata()},
		{"events-on-nats.md", "events on nats", engineNATS, eventDifferences(), PubSubMetadata()},
	} {
		var b strings.Builder
		fmt.Fprintf(&b, "\n| of | `engine: bolt` | `engine: %s` |\n| --- | --- | --- |\n", test.engine)
		listed := ""
		for _, d := range test.differences {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", d.Of, d.Bolt, d.Cluster)
			listed += d.Of
		}
		reference.Check(t, "../../docs/"+test.file, test.section, b.String(), *update, "go test ./internal/component -run TestDifferences -update")
		for _, f := range test.keys {
			if f.Name == "engine" {
				break // what follows is for servers alone
			}
			require.Contains(t, listed, "`"+f.Name+"`", "what does it mean with engine %s?", test.engine)
		}
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
		{"operations of one transaction", "up to 50000", "up to half of `--max-txn-ops` of the servers, less one: 2047 as shipped; Dapr is told so"},
		{"queries and bulk gets see one snapshot", "for as long as they take", "for as long as etcd keeps old revisions (`--auto-compaction-retention`); then they fail and say so"},
		{"when there is no room", "the disk is full: writes fail, reads go on", "`--quota-backend-bytes` is reached: writes fail, and the first may have taken place; compact, defragment and disarm the alarm"},
		{"when it cannot be reached", "does not arise", "calls fail after `requestTimeout`, `/readyz` names the servers that do not answer, and all resumes by itself"},
		{"a write that failed because of that", "does not arise", "may have taken place: an `idempotencyKey` makes it safe to repeat"},
		{"`dapr-bolt backup`, `check`, `compact`", "work on the file", "are etcd's: `etcdctl snapshot save`, `etcdctl endpoint hashkv`, `etcdctl defrag`"},
	}
}

// eventDifferences lists every metadata key of the pub/sub that both engines have, and every promise.
func eventDifferences() []difference {
	const same = "the same"
	return []difference{
		{"`database`, `bucket`", "the file, and the bucket in it", "parts of the stream's name, `<prefix>=<database>=<bucket>`"},
		{"`consumerID`, `dedupBy`, `deliverPolicy`", "as the reference says", same},
		{"`dedupWindow`", "exact", "rounded up to whole seconds; shared by all processes"},
		{"`maxDeliver`, `backOff`, `maxAckPending`", "as the reference says", same},
		{"`ackWait`", "counted by the process", same + ", by the process that has the event"},
		{"`maxBytes`", "per topic", "of the whole bucket, dead letters and remembered ids included; what other processes publish within a second may exceed it"},
		{"`ordered`", "of any stream of the group", "from the group's first subscription on; another value is refused"},
		{"`deadLetterExpired`", "of any stream of the group", "of the stream that has the event"},
		{"`partitionKey`", "each key by itself", "keys share 8 partitions by hash: a retry holds up the keys of its partition"},
		{"order without `ordered` or a `partitionKey`", "of the publishes, but for retries", "the same, but for what a stream had in flight when it ended: later events may come first"},
		{"`maxAge`", "also retries that wait", "a retry that waits is buried when its wait ends"},
		{"bulk publish", "any size", "at most 500 events in one call"},
		{"`sequence`, dead letters' ids", "without gaps in a topic", "the stream's, with gaps"},
		{"a process that crashes", "all returns at its next start", "what it had in flight comes to others after 30 s; a clean stop returns it at once"},
		{"`topics remove-group`", "any group", "not one topic out of a pattern: remove the pattern's"},
		{"`topics`: bytes, last sequence", "counted", "0: the servers do not count them by topic"},
		{"`topics`: streams, counts since the start", "of the process, which is all", "of this process"},
		{"a retry in flight", "counts as in flight", "the same in its process; to others it counts as retrying"},
		{"what every group has handled", "leaves at once", "leaves once all before it in its partition were handled: a long retry keeps those behind it on the disks"},
		{"`retries now`", "at once", "at once, or by itself if due within 6 s; where servers are lost meanwhile, maybe at its time"},
		{"the command line, console and metrics", "the file's name", "database `nats-<prefix>` (`nats-<prefix>-<database>` if it is not the default), from any process whose sidecars use it"},
		{"`topics remove`, `buckets remove`", "asks this process, which is all, who consumes", "asks the servers who waits for events: stop the apps first"},
		{"where an event stands (`topics event`, the console)", "exact", "`unknown` for one without a partition key that another process has in flight, or has just handled"},
		{"`topics event` of an event that is gone", "which groups have handled it", "not found: sequences are the stream's, not the topic's"},
	}
}
