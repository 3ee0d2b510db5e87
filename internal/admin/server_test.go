package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestList(t *testing.T) {
	d := newData(t)
	for i := range 50 {
		topic := "orders"
		if i == 9 {
			topic = "other"
		}
		d.dies(topic, `{"n":1}`)
	}
	c := d.serve()

	var seen []uint64
	var pages []int
	for after := uint64(0); ; {
		page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{After: after, Limit: 20})
		require.NoError(t, err)
		for _, d := range page.DeadLetters {
			seen = append(seen, d.ID)
			require.Empty(t, d.Event.Data, "no payload unless asked for")
			require.Empty(t, d.Event.DataEncoding)
			require.Equal(t, Bucket{"dapr", "pubsub"}, d.Bucket)
		}
		pages = append(pages, len(page.DeadLetters))
		if after = page.Next; after == 0 {
			break
		}
	}
	require.Equal(t, []int{20, 20, 10}, pages)
	require.Len(t, seen, 50)
	require.IsIncreasing(t, seen)

	page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{Limit: 50})
	require.NoError(t, err)
	require.Zero(t, page.Next, "a page that is exactly full is the last")
	page, err = CallDeadLetters.Ask(t.Context(), c, ListOptions{})
	require.NoError(t, err)
	require.Len(t, page.DeadLetters, 50, "the default page is larger")
	last := page.DeadLetters[49].Time

	for name, filter := range map[string]ListOptions{
		"topic": {Topic: "other"},
		"since": {Since: last.Add(time.Second)},
		"group": {Group: "nobody"},
		"text":  {Text: "absent"},
	} {
		page, err := CallDeadLetters.Ask(t.Context(), c, filter)
		require.NoError(t, err)
		want := 0
		if name == "topic" {
			want = 1
		}
		require.Len(t, page.DeadLetters, want, name)
	}
}

func TestAPageWithPayloadsIsBoundedInBytes(t *testing.T) {
	d := newData(t)
	for size := range 6 {
		bytes := maxPageBytes / 3
		if size == 3 {
			bytes = maxPageBytes + 1
		}
		d.dies("orders", strings.Repeat("x", bytes))
	}
	c := d.serve()
	var pages []int
	for after := uint64(0); ; {
		page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{After: after, Data: true})
		require.NoError(t, err)
		pages = append(pages, len(page.DeadLetters))
		if after = page.Next; after == 0 {
			break
		}
	}
	require.Equal(t, []int{3, 1, 2}, pages, "one that is larger than a page comes alone")
}

func TestShowKeepsPayloads(t *testing.T) {
	payloads := map[string]struct {
		data     string
		encoding DataEncoding
		json     string
	}{
		"json":           {`{"id":12345678901234567890,"html":"<b>"}`, DataJSON, `{"id":12345678901234567890,"html":"<b>"}`},
		"text":           {"not { json\n", DataText, `"not { json\n"`},
		"empty":          {"", DataText, `""`},
		"binary":         {"\xff\x00", DataBase64, `"/wA="`},
		"json, not utf8": {"\"\xff\"", DataBase64, `"Iv8i"`},
	}
	for name, p := range payloads {
		t.Run(name, func(t *testing.T) {
			d := newData(t)
			id := d.dies("orders", p.data)
			letter, err := CallDeadLetter.Ask(t.Context(), d.serve(), IDRequest{ID: id})
			require.NoError(t, err)
			require.Equal(t, p.encoding, letter.Event.DataEncoding)
			require.Equal(t, p.json, string(letter.Event.Data))
			payload, err := letter.Event.Payload()
			require.NoError(t, err)
			require.Equal(t, p.data, string(payload))
			require.Equal(t, len(p.data), letter.Event.Size)
			require.Equal(t, "event-1", letter.Event.ID)
			require.Equal(t, "second", letter.LastError)
			require.Len(t, letter.Attempts, 2)
			require.Equal(t, "first", letter.Attempts[0].Error)
			require.Equal(t, "second", letter.Attempts[1].Error)
			require.Equal(t, 2, letter.Deliveries)
			require.Zero(t, letter.Event.Expires)
		})
	}
}

func TestRedriveAndPurge(t *testing.T) {
	d := newData(t)
	ids := []uint64{d.dies("orders", ""), d.dies("orders", ""), d.dies("orders", "")}
	c := d.serve()

	redriven, err := CallRedrive.Ask(t.Context(), c, IDsRequest{IDs: []uint64{ids[1], 99}})
	require.NoError(t, err)
	require.Equal(t, ids[1:2], redriven.Redriven)
	purged, err := CallPurge.Ask(t.Context(), c, IDsRequest{Bucket{"dapr", "pubsub"}, ids})
	require.NoError(t, err)
	require.Equal(t, 2, purged.Purged)
	page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{})
	require.NoError(t, err)
	require.Empty(t, page.DeadLetters)

	for _, ids := range [][]uint64{nil, make([]uint64, MaxIDs+1)} {
		_, err = CallRedrive.Ask(t.Context(), c, IDsRequest{IDs: ids})
		requireStatus(t, err, http.StatusBadRequest, "allowed: 1 to 1000 in one call")
	}
}

func TestTopics(t *testing.T) {
	d := newData(t)
	d.dies("orders", "")
	d.publish("orders", "")
	d.publish("new", "")
	other, err := d.manager.Broker(t.Context(), "shop", "pubsub")
	require.NoError(t, err)
	require.NoError(t, errors.Join(other.Publish(t.Context(), "sales", []pubsub.Message{{Data: []byte("1")}}, pubsub.PublishOptions{})...))
	c := d.serve()
	topics, err := CallTopics.Ask(t.Context(), c, TopicsRequest{})
	require.NoError(t, err)
	require.Len(t, topics.Topics, 3)
	byName := map[string]TopicStats{}
	for _, topic := range topics.Topics {
		byName[topic.Topic] = topic
	}
	require.EqualValues(t, 1, byName["orders"].Groups[0].Dead)
	require.EqualValues(t, 1, byName["orders"].Groups[0].Waiting)
	require.NotNil(t, byName["new"].Groups, "an empty list, not null")
	require.Equal(t, Bucket{"shop", "pubsub"}, byName["sales"].Bucket)
	buckets, err := CallBuckets.Ask(t.Context(), c, Empty{})
	require.NoError(t, err)
	require.Equal(t, Buckets{Buckets: []Bucket{{"dapr", "pubsub"}, {"shop", "pubsub"}}, State: []Bucket{}}, buckets)

	require.NoError(t, errorOf(CallRemoveGroup.Ask(t.Context(), c, GroupRequest{Topic: "orders", Group: "app"})))
	topics, err = CallTopics.Ask(t.Context(), c, TopicsRequest{Bucket: Bucket{"dapr", "pubsub"}})
	require.NoError(t, err)
	require.Len(t, topics.Topics, 2)
	for _, topic := range topics.Topics {
		require.Empty(t, topic.Groups)
	}
	requireStatus(t, errorOf(CallRemoveGroup.Ask(t.Context(), c, GroupRequest{Topic: "orders", Group: "app"})), http.StatusNotFound, "not found")
}

// What cannot be looked into is said, and the rest is there.
func TestADamagedDatabaseIsMissingAlone(t *testing.T) {
	d := newData(t)
	d.dies("orders", "")
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "broken.db"), []byte("no database"), 0o600))
	topics, err := CallTopics.Ask(t.Context(), d.serve(), TopicsRequest{})
	require.NoError(t, err)
	require.Len(t, topics.Topics, 1)
	require.Contains(t, topics.Missing, "broken")
}

func TestBackupAndInfo(t *testing.T) {
	d := newData(t)
	d.publish("orders", "")
	c := d.serve()
	path := filepath.Join(t.TempDir(), "copy.db")
	result, err := CallBackup.Ask(t.Context(), c, BackupRequest{Path: path})
	require.NoError(t, err)
	require.Equal(t, "dapr", result.Database)
	require.Equal(t, path, result.Path)
	copied, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, copied.Size(), result.Size)

	info, err := CallInfo.Ask(t.Context(), c, Empty{})
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), info.PID)
	require.Equal(t, "v1", info.Version)
	require.Equal(t, "/run/bolt.sock", info.Socket)
	require.Equal(t, "dapr", info.Databases[0].Name)
}

func requireStatus(t *testing.T, err error, status int, text string) {
	t.Helper()
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, status, refused.Status, refused.Message)
	require.Contains(t, refused.Message, text)
}

func TestErrorsReachTheClient(t *testing.T) {
	d := newData(t)
	d.publish("orders", "")
	c := d.serve()
	_, err := CallDeadLetter.Ask(t.Context(), c, IDRequest{ID: 5})
	requireStatus(t, err, http.StatusNotFound, "dead letter 5: not found")
	_, err = CallTopics.Ask(t.Context(), c, TopicsRequest{Bucket: Bucket{Database: "../x"}})
	requireStatus(t, err, http.StatusBadRequest, `invalid database "../x"`)
	_, err = CallTopics.Ask(t.Context(), c, TopicsRequest{Bucket: Bucket{Name: "none"}})
	requireStatus(t, err, http.StatusNotFound, `no pub/sub bucket "none": there is pubsub`)
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders"})
	requireStatus(t, errorOf(CallRemoveGroup.Ask(t.Context(), c, GroupRequest{Topic: "orders", Group: "app"})), http.StatusBadRequest, "stop its app first")
	sub.Close()
	require.Equal(t, http.StatusServiceUnavailable, StatusOf(pubsub.ErrClosed))
	require.NoError(t, d.manager.Close(t.Context()))
	_, err = CallTopics.Ask(t.Context(), c, TopicsRequest{Bucket: Bucket{Name: "pubsub"}})
	requireStatus(t, err, http.StatusInternalServerError, "closed")
}

func TestBadRequestsAreRefused(t *testing.T) {
	d := newData(t)
	d.dies("orders", "")
	c := d.serve()
	for name, r := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"bad limit":     {"POST", "/v1/dead-letters/list", `{"limit":-1}`, 400, `limit -1: allowed: 1 to 1000`},
		"large limit":   {"POST", "/v1/dead-letters/list", `{"limit":1001}`, 400, "allowed: 1 to 1000"},
		"bad after":     {"POST", "/v1/dead-letters/list", `{"after":-1}`, 400, "after"},
		"bad since":     {"POST", "/v1/dead-letters/list", `{"since":"soon"}`, 400, "soon"},
		"bad data":      {"POST", "/v1/dead-letters/list", `{"data":"maybe"}`, 400, "data"},
		"bad id":        {"POST", "/v1/dead-letters/show", `{"id":"x"}`, 400, "id"},
		"no body":       {"POST", "/v1/dead-letters/purge", "", 400, "request body"},
		"unknown field": {"POST", "/v1/dead-letters/purge", `{"ids":[1],"al":true}`, 400, `unknown field "al"`},
		"two values":    {"POST", "/v1/dead-letters/purge", `{"ids":[1]}{"ids":[2]}`, 400, "more than one JSON value"},
		"negative id":   {"POST", "/v1/dead-letters/purge", `{"ids":[-1]}`, 400, "request body"},
		"large body":    {"POST", "/v1/dead-letters/purge", `{"database":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too large: at most 6291456 bytes"},
		"wrong method":  {"GET", "/v1/dead-letters/purge", "", 404, "no such call: GET"},
		"unknown path":  {"GET", "/", "", 404, "no such call: GET /"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), r.method, "http://admin"+r.path, strings.NewReader(r.body))
			require.NoError(t, err)
			resp, err := c.http.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			var answer errorBody
			require.NoError(t, json.Unmarshal(body, &answer), string(body))
			require.Equal(t, r.status, resp.StatusCode, answer.Error)
			require.Contains(t, answer.Error, r.want)
			page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{})
			require.NoError(t, err)
			require.Len(t, page.DeadLetters, 1)
		})
	}
}

func TestTheSocketIsItsOwnersWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o377} {
		t.Run(fmt.Sprintf("%#o", umask), func(t *testing.T) {
			path := socketPath(t)
			before := syscall.Umask(umask)
			s, err := Listen(t.Context(), Options{Path: path})
			require.Equal(t, umask, syscall.Umask(before), "the umask is the process's own business")
			require.NoError(t, err)
			info, err := os.Lstat(path)
			require.NoError(t, err)
			require.Equal(t, os.ModeSocket|0o600, info.Mode())
			entries, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, entries, 1)
			require.NoError(t, s.Stop(t.Context()))
			require.NoFileExists(t, path)
		})
	}
}

func listen(t *testing.T) (*Server, string) {
	t.Helper()
	path := socketPath(t)
	s, err := Listen(t.Context(), Options{Path: path})
	require.NoError(t, err)
	return s, path
}

func TestALiveSocketIsRefusedAndADeadOneReplaced(t *testing.T) {
	live, path := listen(t)
	_, err := Listen(t.Context(), Options{Path: path})
	require.ErrorContains(t, err, path+" is served by process ")
	require.NoError(t, live.Stop(t.Context()))

	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	s, err := Listen(t.Context(), Options{Path: path, Service: newData(t).service})
	require.NoError(t, err)
	c := NewClient(path)
	defer c.Close()
	_, err = CallInfo.Ask(t.Context(), c, Empty{})
	require.NoError(t, err)
	require.NoError(t, s.Stop(t.Context()))

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = Listen(t.Context(), Options{Path: path})
	require.ErrorContains(t, err, "is not a socket")
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(kept))
}

func TestALongPathIsRefusedByName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	require.NoError(t, os.Mkdir(dir, 0o700))
	_, err := Listen(t.Context(), Options{Path: filepath.Join(dir, SocketName)})
	require.ErrorContains(t, err, "the system allows")
	c := NewClient(filepath.Join(dir, SocketName))
	_, err = CallInfo.Ask(t.Context(), c, Empty{})
	require.ErrorContains(t, err, "the system allows")
}

func TestNobodyThere(t *testing.T) {
	s, path := listen(t)
	require.NoError(t, s.Stop(t.Context()))
	c := NewClient(path)
	var notRunning *NotRunningError
	require.ErrorAs(t, errorOf(CallReady.Ask(t.Context(), c, Empty{})), &notRunning)
	require.Equal(t, path, notRunning.Socket)
}

func TestStopLetsRunningCallsEnd(t *testing.T) {
	path := socketPath(t)
	entered, release := make(chan struct{}), make(chan struct{})
	s, err := Listen(t.Context(), Options{Path: path, Service: NewService(ServiceOptions{Ready: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}})})
	require.NoError(t, err)
	c := NewClient(path)
	defer c.Close()
	answered := make(chan error, 1)
	go func() { answered <- errorOf(CallReady.Ask(context.Background(), c, Empty{})) }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	require.Eventually(t, func() bool { _, err := os.Lstat(path); return errors.Is(err, os.ErrNotExist) }, 5*time.Minute, time.Millisecond)
	close(release)
	require.NoError(t, <-answered)
	require.NoError(t, <-stopped)
}

func FuzzRequestBody(f *testing.F) {
	f.Add([]byte(`{"ids":[1]}`))
	f.Add([]byte(`{"database":"x","bucket":"y","ids":[18446744073709551615]} `))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := http.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		require.NoError(t, err)
		var into IDsRequest
		err = decode(req, &into)
		if err != nil {
			require.GreaterOrEqual(t, StatusOf(err), 400)
			require.Less(t, StatusOf(err), 500)
		}
	})
}

// errorOf is for calls that answer nothing.
func errorOf(_ Empty, err error) error { return err }
