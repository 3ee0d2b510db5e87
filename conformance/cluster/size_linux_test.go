package cluster_test

import (
	"flag"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var sized = flag.Int("sized", 2000, "keys and events of TestSizes; from some 100000 on, its figures are those of docs/cluster.md")

// What a key, an event and an id take on the servers. With few of them, what is said of memory means little.
func TestSizes(t *testing.T) {
	h := harness.ForTest(t)
	etcd := harness.StartEtcd(t, h, harness.ClusterOptions{})
	nats := harness.StartNATS(t, h, harness.ClusterOptions{})
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	c := newClient(t, bolt)
	require.NoError(t, c.InitState(t.Context(), etcd.Metadata()...))
	require.NoError(t, c.InitPubSub(t.Context(), nats.Metadata("consumerID", "g", "dedupWindow", "24h")...))
	value := make([]byte, 100)
	follower := func() *harness.EtcdMember {
		for _, m := range etcd.Servers {
			if !m.Leads(t.Context()) {
				return m
			}
		}
		return etcd.Servers[0]
	}()

	memory, disk := restarted(t, follower.Process), metric(t, follower.Metrics+"/metrics", `etcd_mvcc_db_total_size_in_use_in_bytes (\S+)`)
	each(t, func(i int) error { return c.Set(t.Context(), fmt.Sprintf("todo-api||%040d", i), value) }) // 50 bytes
	perKey := func(now, before float64) float64 { return (now - before) / float64(*sized) }
	keyDisk := perKey(metric(t, follower.Metrics+"/metrics", `etcd_mvcc_db_total_size_in_use_in_bytes (\S+)`), disk)
	t.Logf("etcd: a key of 50 bytes with a value of 100 takes %.0f bytes of the database, and %.0f of memory after a restart", keyDisk, perKey(restarted(t, follower.Process), memory))

	server := nats.Servers[0]
	each(t, func(i int) error { return c.Publish(t.Context(), "t", fmt.Sprintf("%036d", i), make([]byte, 1024)) })
	size := streamBytes(t, server)
	eventDisk := size / float64(*sized)
	t.Logf("nats: an event of 1024 bytes with its id takes %.0f bytes of disk", eventDisk)
	require.Greater(t, keyDisk, 150.0, "it holds the key and the value")
	require.Less(t, keyDisk, 1000.0)
	require.Greater(t, eventDisk, 1024.0)
	require.Less(t, eventDisk, 2048.0)

	consume(t, c)
	require.Eventually(t, func() bool { return messages(t, server) < float64(*sized)*1.01+50 }, 5*waitLong, 200*time.Millisecond, "what is handled stays")
	t.Logf("nats: an id that is remembered takes %.0f bytes of disk", streamBytes(t, server)/float64(*sized))
}

// each calls f for every number below -sized, 64 at a time.
func each(t *testing.T, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= *sized {
					return
				}
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	require.False(t, t.Failed())
}

// restarted starts a server anew and returns the memory that it takes then, without files that the kernel keeps.
func restarted(t *testing.T, p *harness.Process) float64 {
	t.Helper()
	p.Kill()
	require.NoError(t, p.Start())
	require.NoError(t, p.WaitReady(t.Context()))
	process, err := procfs.NewProc(p.PID())
	require.NoError(t, err)
	status, err := process.NewStatus()
	require.NoError(t, err)
	return float64(status.RssAnon)
}

func metric(t *testing.T, url, pattern string) float64 {
	t.Helper()
	response, err := harness.Call(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	found := regexp.MustCompile(pattern).FindAllSubmatch(response.Body, -1)
	require.NotEmpty(t, found, "%s in %s", pattern, response.Body)
	value, err := strconv.ParseFloat(string(found[len(found)-1][1]), 64)
	require.NoError(t, err)
	return value
}

func streamBytes(t *testing.T, m *harness.NATSMember) float64 {
	t.Helper()
	return metric(t, m.Monitor+"/jsz", `(?m)^\s*"bytes": (\d+)`)
}

func messages(t *testing.T, m *harness.NATSMember) float64 {
	t.Helper()
	return metric(t, m.Monitor+"/jsz", `(?m)^\s*"messages": (\d+)`)
}
