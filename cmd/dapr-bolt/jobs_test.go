package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// What the console has begun, the command line sees and stops.
func TestJobsOfTheConsole(t *testing.T) {
	f := newFolders(t)
	leaveDeadLetters(t, f, databases.DefaultDatabase, databases.DefaultPubSubBucket, "no slot", `1`, `2`)
	p := start(t, f, "--http-listen", "127.0.0.1:0")
	require.Empty(t, p.ok(t, "dead-letters", "jobs"))
	let := status(t, strings.TrimSpace(p.ok(t, "console")))
	form := url.Values{"all": {"yes"}, "topic": {"orders"}, "rate": {"0.01"}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.address(t)+"/dead-letters/redrive", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.AddCookie(let.Cookies()[0])
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)

	listed := p.ok(t, "dead-letters", "jobs")
	require.Regexp(t, `1 +redrive +pubsub +orders +- +running`, listed)
	require.Contains(t, p.ok(t, "dead-letters", "stop-job", "1"), "job 1 was asked to stop")
	require.Eventually(t, func() bool {
		var jobs []admin.Job
		return json.Unmarshal([]byte(p.ok(t, "dead-letters", "jobs", "--output", "json")), &jobs) == nil && jobs[0].State == admin.JobCanceled
	}, patience, time.Millisecond)
	got := shell{}.run(t, "dead-letters", "stop-job", "99", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "job 99: not found")
}
