package performance_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

var consoleRounds = flag.Int("console-rounds", 1, "how often the cost of an open console is measured; `make console-cost` takes ten")

const (
	// consoleWindow is how long each half of a round takes.
	consoleWindow = 3 * time.Second
	// loadEvery is how often the load sets a value, reads it, and publishes an event, which is delivered.
	loadEvery = 2 * time.Millisecond
)

// An open console costs little beside the work: what the process takes of a core is printed, with the overview and a
// topic's page open, and without. The two take turns, so that what else the machine does is in both.
func TestAnOpenConsoleCostsLittle(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	loading, end := context.WithCancel(t.Context())
	loaded := make(chan error, 1)
	go func() { loaded <- load(loading, bolt) }()
	defer func() {
		end()
		require.NoError(t, <-loaded)
	}()

	link, err := bolt.ConsoleLink(t.Context())
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	resp, err := browser.Get(link)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)

	var without, with, updates []float64
	for range *consoleRounds {
		without = append(without, cores(t, bolt))
		open, leave := context.WithCancel(t.Context())
		var seen atomic.Int64
		done := make(chan error, 2)
		for _, page := range []string{"/", "/topic?topic=load"} {
			go func() { done <- watch(open, browser, "http://"+bolt.HTTPAddress+page, &seen) }()
		}
		with = append(with, cores(t, bolt))
		require.Eventually(t, func() bool { return seen.Load() >= 2 }, patience, poll, "both pages are kept up to date")
		leave()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		updates = append(updates, float64(seen.Load()))
	}
	fmt.Printf("of a core, under the load of %d calls a second: %.1f %% without an open console, %.1f %% with two pages of it, which were made %.0f times in %s\n",
		3*time.Second/loadEvery, 100*median(without), 100*median(with), median(updates), consoleWindow)
}

// load works until ctx ends.
func load(ctx context.Context, bolt *harness.Bolt) error {
	c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), "load")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.InitState(ctx); err != nil {
		return err
	}
	if err := c.InitPubSub(ctx, "consumerID", "app"); err != nil {
		return err
	}
	stream, err := c.Pull(ctx, "load")
	if err != nil {
		return err
	}
	consumed := make(chan struct{})
	defer func() { <-consumed }()
	go func() {
		defer close(consumed)
		for {
			m, err := stream.Recv()
			if err != nil || stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}) != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		key := strconv.Itoa(n % 1000)
		err := c.Set(ctx, key, make([]byte, payloadSize))
		if err == nil {
			_, err = c.Get(ctx, key)
		}
		if err == nil {
			err = c.Publish(ctx, "load", strconv.Itoa(n), make([]byte, payloadSize))
		}
		if err != nil {
			return err
		}
	}
}

// watch counts what a page is sent to stay up to date, until ctx ends.
func watch(ctx context.Context, browser *http.Client, page string, seen *atomic.Int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := browser.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		return fmt.Errorf("%s is of type %q", page, kind)
	}
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // ctx has ended
		}
		if strings.HasPrefix(line, "data:") {
			seen.Add(1)
		}
	}
}

// cores is how much of a core the process takes during consoleWindow.
func cores(t *testing.T, bolt *harness.Bolt) float64 {
	t.Helper()
	used := func() float64 {
		answer, err := harness.Call(t.Context(), http.MethodGet, "http://"+bolt.HTTPAddress+"/metrics", nil)
		require.NoError(t, err)
		require.NoError(t, answer.OK())
		_, rest, found := strings.Cut(string(answer.Body), "\nprocess_cpu_seconds_total ")
		require.True(t, found)
		text, _, _ := strings.Cut(rest, "\n")
		seconds, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		return seconds
	}
	began, before := time.Now(), used()
	time.Sleep(consoleWindow)
	return (used() - before) / time.Since(began).Seconds()
}
