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
	broker := &fakeBroker{}
	for id := range uint64(50) {
		broker.letters = append(broker.letters, letter(id+1, `{"n":1}`))
	}
	broker.letters[9].Event.Topic = "other"
	c := start(t, &fakeBackend{broker: broker})

	var seen []uint64
	var pages []int
	for after := uint64(0); ; {
		page, err := c.DeadLetters(t.Context(), ListOptions{After: after, Limit: 20})
		require.NoError(t, err)
		for _, d := range page.DeadLetters {
			seen = append(seen, d.ID)
			require.Empty(t, d.Event.Data, "no payload unless asked for")
			require.Empty(t, d.Event.DataEncoding)
		}
		pages = append(pages, len(page.DeadLetters))
		if after = page.Next; after == 0 {
			break
		}
	}
	require.Equal(t, []int{20, 20, 10}, pages)
	require.Len(t, seen, 50)
	require.IsIncreasing(t, seen)
	require.LessOrEqual(t, broker.most, readStep)

	page, err := c.DeadLetters(t.Context(), ListOptions{Limit: 50})
	require.NoError(t, err)
	require.Zero(t, page.Next, "a page that is exactly full is the last")
	page, err = c.DeadLetters(t.Context(), ListOptions{})
	require.NoError(t, err)
	require.Len(t, page.DeadLetters, 50, "the default page is larger")

	for name, filter := range map[string]ListOptions{
		"topic": {Topic: "other"},
		"since": {Since: broker.letters[49].Time},
		"group": {Group: "nobody"},
		"text":  {Text: "absent"},
	} {
		page, err := c.DeadLetters(t.Context(), filter)
		require.NoError(t, err)
		want := 1
		if name == "group" || name == "text" {
			want = 0
		}
		require.Len(t, page.DeadLetters, want, name)
	}
}

func TestAPageWithPayloadsIsBoundedInBytes(t *testing.T) {
	broker := &fakeBroker{}
	for id := range uint64(6) {
		broker.letters = append(broker.letters, letter(id+1, strings.Repeat("x", maxPageBytes/3)))
	}
	broker.letters[3].Event.Data = make([]byte, maxPageBytes+1)
	c := start(t, &fakeBackend{broker: broker})
	var pages []int
	for after := uint64(0); ; {
		page, err := c.DeadLetters(t.Context(), ListOptions{After: after, Data: true})
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
			c := start(t, &fakeBackend{broker: &fakeBroker{letters: []pubsub.DeadLetter{letter(7, p.data)}}})
			d, err := c.DeadLetter(t.Context(), Scope{}, 7)
			require.NoError(t, err)
			require.Equal(t, p.encoding, d.Event.DataEncoding)
			require.Equal(t, p.json, string(d.Event.Data))
			payload, err := d.Event.Payload()
			require.NoError(t, err)
			require.Equal(t, p.data, string(payload))
			require.Equal(t, len(p.data), d.Event.Size)
			require.Equal(t, "event-7", d.Event.ID)
			require.Equal(t, "second", d.LastError)
			require.Equal(t, []Attempt{{died, "first"}, {died, "second"}}, d.Attempts)
			require.Equal(t, 2, d.Deliveries)
			require.Nil(t, d.Event.Expires)
		})
	}
}

func TestRedriveAndPurge(t *testing.T) {
	broker := &fakeBroker{letters: []pubsub.DeadLetter{letter(1, ""), letter(2, ""), letter(3, "")}}
	c := start(t, &fakeBackend{broker: broker})

	redriven, err := c.Redrive(t.Context(), Scope{}, []uint64{2, 9})
	require.NoError(t, err)
	require.Equal(t, []uint64{2}, redriven.Redriven)
	purged, err := c.Purge(t.Context(), Scope{Database: "dapr", Bucket: "pubsub"}, []uint64{1, 2, 3})
	require.NoError(t, err)
	require.Equal(t, 2, purged.Purged)
	require.Empty(t, broker.letters)

	for _, ids := range [][]uint64{nil, make([]uint64, MaxIDs+1)} {
		_, err = c.Redrive(t.Context(), Scope{}, ids)
		requireStatus(t, err, http.StatusBadRequest, "allowed: 1 to 1000 in one call")
	}
}

func TestTopics(t *testing.T) {
	broker := &fakeBroker{stats: []pubsub.TopicStats{{Topic: "orders", Stored: 3, Groups: []pubsub.GroupStats{{Group: "app", Waiting: 2}}}, {Topic: "new"}}}
	c := start(t, &fakeBackend{broker: broker})
	topics, err := c.Topics(t.Context(), Scope{})
	require.NoError(t, err)
	require.EqualValues(t, 2, topics.Topics[0].Groups[0].Waiting)
	require.NotNil(t, topics.Topics[1].Groups, "an empty list, not null")

	require.NoError(t, c.RemoveGroup(t.Context(), Scope{}, "orders", "app"))
	require.Equal(t, [][2]string{{"orders", "app"}}, broker.removed)
	requireStatus(t, c.RemoveGroup(t.Context(), Scope{}, "", "app"), http.StatusBadRequest, `invalid topic ""`)
}

func TestBackupAndInfo(t *testing.T) {
	backend := &fakeBackend{broker: &fakeBroker{}}
	c := start(t, backend)
	path := filepath.Join(t.TempDir(), "copy.db")
	result, err := c.Backup(t.Context(), "", path)
	require.NoError(t, err)
	require.Equal(t, BackupResult{Database: "dapr", Path: path, Size: 4}, result)
	require.Equal(t, "dapr", backend.backup)

	info, err := c.Info(t.Context())
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
	broker := &fakeBroker{}
	c := start(t, &fakeBackend{broker: broker})
	_, err := c.DeadLetter(t.Context(), Scope{}, 5)
	requireStatus(t, err, http.StatusNotFound, "dead letter 5: not found")
	_, err = c.Topics(t.Context(), Scope{Database: "../x"})
	requireStatus(t, err, http.StatusBadRequest, `invalid database "../x"`)
	_, err = c.Topics(t.Context(), Scope{Bucket: "none"})
	requireStatus(t, err, http.StatusNotFound, "dapr/none")
	broker.err = errors.New("disk on fire")
	_, err = c.Topics(t.Context(), Scope{})
	requireStatus(t, err, http.StatusInternalServerError, "disk on fire")
	broker.err = pubsub.ErrClosed
	_, err = c.Redrive(t.Context(), Scope{}, []uint64{1})
	requireStatus(t, err, http.StatusServiceUnavailable, "closed")
}

func TestBadRequestsAreRefused(t *testing.T) {
	broker := &fakeBroker{letters: []pubsub.DeadLetter{letter(1, "")}}
	c := start(t, &fakeBackend{broker: broker})
	for name, r := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"unknown parameter": {"GET", "/v1/dead-letters?topics=x", "", 400, `unknown parameter "topics": allowed: database,`},
		"bad limit":         {"GET", "/v1/dead-letters?limit=0", "", 400, `limit "0": allowed: 1 to 1000`},
		"large limit":       {"GET", "/v1/dead-letters?limit=1001", "", 400, "allowed: 1 to 1000"},
		"bad after":         {"GET", "/v1/dead-letters?after=-1", "", 400, `after "-1"`},
		"bad since":         {"GET", "/v1/dead-letters?since=soon", "", 400, `since "soon": allowed: an RFC 3339 time`},
		"bad data":          {"GET", "/v1/dead-letters?data=maybe", "", 400, `data "maybe"`},
		"bad id":            {"GET", "/v1/dead-letters/x", "", 400, `id "x"`},
		"no body":           {"POST", "/v1/dead-letters/purge", "", 400, "request body"},
		"unknown field":     {"POST", "/v1/dead-letters/purge", `{"ids":[1],"al":true}`, 400, `unknown field "al"`},
		"two values":        {"POST", "/v1/dead-letters/purge", `{"ids":[1]}{"ids":[2]}`, 400, "more than one JSON value"},
		"negative id":       {"POST", "/v1/dead-letters/purge", `{"ids":[-1]}`, 400, "request body"},
		"large body":        {"POST", "/v1/dead-letters/purge", `{"database":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too large"},
		"wrong method":      {"GET", "/v1/dead-letters/purge/x", "", 404, "no such call: GET"},
		"unknown path":      {"GET", "/", "", 404, "no such call: GET /"},
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
			require.Len(t, broker.letters, 1)
		})
	}
}

func TestTheSocketIsItsOwnersWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o377} {
		t.Run(fmt.Sprintf("%#o", umask), func(t *testing.T) {
			path := socketPath(t)
			before := syscall.Umask(umask)
			s, err := Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}})
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
	s, err := Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}})
	require.NoError(t, err)
	return s, path
}

func TestALiveSocketIsRefusedAndADeadOneReplaced(t *testing.T) {
	live, path := listen(t)
	_, err := Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}})
	require.ErrorContains(t, err, path+" is served by process ")
	require.NoError(t, live.Stop(t.Context()))

	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	s, err := Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}, Info: func() Info { return Info{} }})
	require.NoError(t, err)
	c := NewClient(path)
	defer c.Close()
	_, err = c.Info(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Stop(t.Context()))

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}})
	require.ErrorContains(t, err, "is not a socket")
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(kept))
}

func TestALongPathIsRefusedByName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	require.NoError(t, os.Mkdir(dir, 0o700))
	_, err := Listen(t.Context(), Options{Path: filepath.Join(dir, SocketName), Backend: &fakeBackend{}})
	require.ErrorContains(t, err, "the system allows")
	c := NewClient(filepath.Join(dir, SocketName))
	_, err = c.Info(t.Context())
	require.ErrorContains(t, err, "the system allows")
}

func TestNobodyThere(t *testing.T) {
	s, path := listen(t)
	require.NoError(t, s.Stop(t.Context()))
	c := NewClient(path)
	var notRunning *NotRunningError
	require.ErrorAs(t, c.Ready(t.Context()), &notRunning)
	require.Equal(t, path, notRunning.Socket)
}

func TestStopLetsRunningCallsEnd(t *testing.T) {
	path := socketPath(t)
	entered, release := make(chan struct{}), make(chan struct{})
	s, err := Listen(t.Context(), Options{Path: path, Backend: &fakeBackend{}, Ready: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}})
	require.NoError(t, err)
	c := NewClient(path)
	defer c.Close()
	answered := make(chan error, 1)
	go func() { answered <- c.Ready(context.Background()) }()
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
		var into idsRequest
		err = decode(req, &into)
		if err != nil {
			require.GreaterOrEqual(t, statusOf(err), 400)
			require.Less(t, statusOf(err), 500)
		}
	})
}
