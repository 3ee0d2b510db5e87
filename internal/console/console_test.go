package console

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "a-token-of-some-length"
	// longTime is how long something may take that takes milliseconds.
	longTime = time.Minute
)

// env is a console over a data directory of its own.
type env struct {
	t       *testing.T
	console *Console
	server  *httptest.Server
	manager *databases.Manager
	broker  pubsub.Service
	log     *logtest.Buffer
	cookie  *http.Cookie
}

func newEnv(t *testing.T, change ...func(*Options)) *env {
	t.Helper()
	e := &env{t: t, log: &logtest.Buffer{}}
	var err error
	counters := metrics.New()
	e.manager, err = databases.Open(t.Context(), databases.Options{Dir: t.TempDir(), Metrics: counters})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.manager.Close(context.Background())) })
	e.broker, err = e.manager.Broker(t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(e.log, nil))
	e.server = httptest.NewUnstartedServer(nil)
	opts := Options{Token: token, Addr: e.server.Listener.Addr().String(), Logger: log}
	for _, c := range change {
		c(&opts)
	}
	opts.Service = admin.NewService(admin.ServiceOptions{
		Databases: e.manager,
		Ready:     func(context.Context) error { return nil },
		Info:      func() admin.Info { return admin.Info{Version: "test"} },
		Metrics:   counters,
		Clock:     opts.Clock,
		Logger:    log,
	})
	t.Cleanup(func() { require.NoError(t, opts.Service.Close(context.Background())) })
	e.console, err = New(opts)
	require.NoError(t, err)
	e.server.Config.Handler = e.console
	e.server.Start()
	t.Cleanup(func() {
		require.NoError(t, e.console.Stop(context.Background()))
		e.server.Close()
	})
	e.server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	e.cookie = &http.Cookie{Name: e.console.cookieName, Value: string(e.console.credential.cookie)}
	return e
}

// answer is what came back.
type answer struct {
	*http.Response
	body string
}

// send sends a request with the cookie. change may take it away, and more.
func (e *env) send(method, target string, form url.Values, change ...func(*http.Request)) answer {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.t.Context(), method, e.server.URL+target, strings.NewReader(form.Encode()))
	require.NoError(e.t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.AddCookie(e.cookie)
	for _, c := range change {
		c(req)
	}
	resp, err := e.server.Client().Do(req)
	require.NoError(e.t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(e.t, err)
	require.NoError(e.t, resp.Body.Close())
	return answer{resp, string(body)}
}

func (e *env) get(target string) answer {
	e.t.Helper()
	return e.send(http.MethodGet, target, nil)
}

// dies publishes an event to topic that the group "app" gives up on with the given error.
func (e *env) dies(topic, payload, cause string) {
	e.t.Helper()
	sub, err := e.broker.Subscribe(e.t.Context(), pubsub.SubscribeOptions{Topic: topic, Group: "app", MaxDeliver: 1})
	require.NoError(e.t, err)
	defer sub.Close()
	before := e.dead()
	require.NoError(e.t, e.broker.Publish(e.t.Context(), topic, []pubsub.Message{{Data: []byte(payload)}}, pubsub.PublishOptions{})[0])
	delivery, err := sub.Next(e.t.Context())
	require.NoError(e.t, err)
	delivery.Nack(cause)
	require.Eventually(e.t, func() bool { return e.dead() > before }, longTime, time.Millisecond)
}

func (e *env) dead() int {
	e.t.Helper()
	letters, _, err := e.broker.DeadLetters(e.t.Context(), pubsub.DeadLetterFilter{Limit: 100_000}, 0)
	require.NoError(e.t, err)
	return len(letters)
}

// TestNobodyElseGetsIn asks every route as those do who must not get in.
func TestNobodyElseGetsIn(t *testing.T) {
	e := newEnv(t)
	e.dies("orders", `{"n":1}`, "no slot")
	without := func(r *http.Request) { r.Header.Del("Cookie") }
	for _, rt := range e.console.table() {
		path := strings.ReplaceAll(rt.path, "{$}", "")
		t.Run(rt.method+" "+path, func(t *testing.T) {
			require.Equal(t, rt.change, rt.method == http.MethodPost, "a change is a POST, and all else a GET")
			send := func(method string, change ...func(*http.Request)) int {
				return e.send(method, path, url.Values{"id": {"1"}, "all": {"yes"}, "confirm": {"purge 1"}}, change...).StatusCode
			}
			for _, host := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1", "localhost:1", ""} {
				require.Contains(t, []int{http.StatusMisdirectedRequest, http.StatusBadRequest}, send(rt.method, func(r *http.Request) {
					if r.Host = host; host == "" {
						r.Host = " "
					}
				}), "host %q", host)
			}
			for name, header := range map[string]http.Header{
				"origin":              {"Origin": {"http://evil.example"}},
				"origin of the port":  {"Origin": {"http://127.0.0.1:1"}},
				"no origin":           {"Origin": {"null"}},
				"another site":        {"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"cors"}},
				"another port":        {"Sec-Fetch-Site": {"same-site"}, "Sec-Fetch-Mode": {"no-cors"}},
				"another site, a GET": {"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Origin": {"http://evil.example"}},
			} {
				require.Equal(t, http.StatusForbidden, send(rt.method, func(r *http.Request) {
					for key, values := range header {
						r.Header[key] = values
					}
				}), name)
			}
			if !rt.open {
				require.Equal(t, http.StatusUnauthorized, send(rt.method, without), "no cookie")
				for _, wrong := range []string{"", "x", token, strings.ToUpper(e.cookie.Value), e.cookie.Value + "0"} {
					require.Equal(t, http.StatusUnauthorized, send(rt.method, without, func(r *http.Request) {
						r.AddCookie(&http.Cookie{Name: e.cookie.Name, Value: wrong})
					}), "cookie %q", wrong)
				}
			}
			if rt.change {
				require.Equal(t, http.StatusMethodNotAllowed, send(http.MethodGet), "a GET changes nothing")
				require.Equal(t, http.StatusForbidden, send(rt.method, func(r *http.Request) {
					r.Header.Set("Sec-Fetch-Site", "cross-site")
					r.Header.Set("Sec-Fetch-Mode", "navigate")
				}), "a form of another site")
			}
		})
	}
	require.Equal(t, 1, e.dead(), "nothing was changed")
	require.NotContains(t, e.log.String(), token)
	require.NotContains(t, e.log.String(), e.cookie.Value)
	require.Equal(t, http.StatusUnauthorized, e.send(http.MethodGet, "/not-there", nil, without).StatusCode, "nor does anybody hear what is not there")
	for path, status := range map[string]int{"/not-there": http.StatusNotFound, "/topic/publish": http.StatusMethodNotAllowed} {
		got := e.get(path)
		require.Equal(t, status, got.StatusCode)
		require.Contains(t, got.body, `<a href="/">To the overview</a>`, "it leads on")
	}
}

// Only these show nothing of what is stored.
func TestWhatNeedsNoCookie(t *testing.T) {
	e := newEnv(t)
	var open []string
	for _, rt := range e.console.table() {
		if rt.open {
			open = append(open, rt.path)
		}
	}
	require.ElementsMatch(t, []string{loginPath, stylePath, codePath, iconPath}, open)
}

func TestReadOnlyRefusesEveryChange(t *testing.T) {
	e := newEnv(t, func(o *Options) { o.ReadOnly = true })
	e.dies("orders", `{"n":1}`, "no slot")
	for _, rt := range e.console.table() {
		if rt.change {
			got := e.send(rt.method, rt.path, url.Values{"id": {"1"}})
			require.Equal(t, http.StatusForbidden, got.StatusCode, rt.path)
			require.Contains(t, got.body, "--console-read-only", rt.path)
		}
	}
	require.Equal(t, 1, e.dead())
	for _, path := range e.allPages(`{"kind":"green"}`) {
		require.NotContains(t, e.get(path).body, `method="post"`, path)
	}
}

// allPages stores something that is shown by every page, with the payload and value given, and returns where they are.
func (e *env) allPages(content string) (paths []string) {
	t := e.t
	e.dies("orders", content, "no slot")
	message := pubsub.Message{Data: []byte(content), Metadata: map[string]string{"note": content}}
	require.NoError(t, e.broker.Publish(t.Context(), "kept", []pubsub.Message{message}, pubsub.PublishOptions{})[0])
	retrying, err := e.broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Topic: "kept", Group: "app", MaxDeliver: 2, BackOff: []time.Duration{time.Hour}})
	require.NoError(t, err)
	defer retrying.Close()
	delivery, err := retrying.Next(t.Context())
	require.NoError(t, err)
	delivery.Nack("no slot")
	store, err := e.manager.StateStore(t.Context(), databases.DefaultDatabase, databases.DefaultStateBucket)
	require.NoError(t, err)
	write := statestore.Write{Op: statestore.OpSet, Key: "app||key", Value: []byte(content)}
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: []statestore.Write{write}, IdempotencyKey: "once"}))
	_, err = e.console.opts.Service.StartJob(t.Context(), admin.JobRequest{Action: admin.JobRedrive, Filter: admin.ListOptions{Text: content, Topic: "none"}})
	require.NoError(t, err, "the command line may, whatever the console may")
	require.Eventually(t, func() bool { return strings.Contains(e.get("/event?topic=kept&sequence=1").body, "retrying") }, longTime, time.Millisecond)
	byRoute := map[string][]string{
		"/{$}":                    {"/"},
		"/topics":                 {"/topics", "/topics?sort=dead&text=e"},
		"/topic":                  {"/topic?topic=orders", "/topic?topic=kept"},
		"/event":                  {"/event?topic=kept&sequence=1", "/event?topic=kept&sequence=1&as=hex", "/event?topic=orders&sequence=1"},
		"/event/payload":          {"/event/payload?topic=kept&sequence=1"},
		"/state":                  {"/state", "/state?prefix=app%7C%7C"},
		"/state/key":              {"/state/key?key=app%7C%7Ckey", "/state/key?key=app%7C%7Ckey&as=text"},
		"/state/key/value":        {"/state/key/value?key=app%7C%7Ckey"},
		"/state/query":            {"/state/query", "/state/query?query=%7B%7D"},
		"/state/idempotency-keys": {"/state/idempotency-keys"},
		"/dead-letters":           {"/dead-letters", "/dead-letters?view=list", "/dead-letters?topic=none"},
		"/dead-letter":            {"/dead-letter?id=1", "/dead-letter?id=1&as=text", "/dead-letter?id=1&as=hex"},
		"/dead-letter/payload":    {"/dead-letter/payload?id=1"},
		"/job":                    {"/job?id=1"},
	}
	for _, rt := range e.console.table() {
		if rt.method == http.MethodGet && !rt.open {
			require.Contains(t, byRoute, rt.path, "where the page is")
			paths = append(paths, byRoute[rt.path]...)
		}
	}
	return paths
}

func TestHiddenValues(t *testing.T) {
	const secret = "a secret word"
	e := newEnv(t, func(o *Options) { o.HideValues = true })
	for _, path := range e.allPages(`{"specversion":"1.0","type":"` + secret + `","data":"` + secret + `"}`) {
		got := e.get(path)
		require.NotContains(t, got.body, secret, path)
		require.NotContains(t, got.body, "secr", path)
		require.NotContains(t, got.body, "73 65 63 72", "%s, in hex", path)
		if strings.Contains(path, "/payload") || strings.Contains(path, "/value") {
			require.Equal(t, http.StatusForbidden, got.StatusCode, path)
		}
	}
	require.Equal(t, http.StatusBadRequest, e.get("/dead-letters?text=secret").StatusCode, "a search would find out what is hidden")
	require.Equal(t, http.StatusBadRequest, e.get("/state/query?query=%7B%7D").StatusCode, "and so would a query")
}

func TestLogin(t *testing.T) {
	e := newEnv(t)
	for _, wrong := range []string{"", "?token=", "?token=" + token + "x", "?token=" + e.cookie.Value} {
		got := e.send(http.MethodGet, loginPath+wrong, nil)
		require.Equal(t, http.StatusUnauthorized, got.StatusCode, wrong)
		require.Empty(t, got.Cookies())
	}
	link := Link(e.console.URL(), token)
	got := e.send(http.MethodGet, strings.TrimPrefix(link, e.console.URL()), nil, func(r *http.Request) {
		r.Header.Del("Cookie")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
	})
	require.Equal(t, http.StatusOK, got.StatusCode)
	require.Len(t, got.Cookies(), 1)
	cookie := got.Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.False(t, cookie.Secure)
	require.NotContains(t, got.body, token)
	e.cookie = cookie
	require.Equal(t, http.StatusOK, e.get("/topics").StatusCode)
	require.NotContains(t, e.log.String(), token)
}

func TestBehindAProxy(t *testing.T) {
	_, err := New(Options{Addr: "0.0.0.0:9180", Token: token})
	require.ErrorContains(t, err, "0.0.0.0:9180")

	e := newEnv(t, func(o *Options) {
		o.Addr = "0.0.0.0" + o.Addr[strings.LastIndex(o.Addr, ":"):]
		o.Hosts = []string{"bolt.example.org"}
	})
	require.Equal(t, "https://bolt.example.org", e.console.URL())
	require.Equal(t, http.StatusMisdirectedRequest, e.get("/topics").StatusCode)
	as := func(host string) func(*http.Request) { return func(r *http.Request) { r.Host = host } }
	require.Equal(t, http.StatusOK, e.send(http.MethodGet, "/topics", nil, as("Bolt.example.org:8443")).StatusCode)
	got := e.send(http.MethodGet, loginPath+"?token="+token, nil, as("bolt.example.org"))
	require.True(t, got.Cookies()[0].Secure, "it must not travel without TLS")
}

func TestEveryAnswerIsBoundUp(t *testing.T) {
	e := newEnv(t)
	e.dies("orders", `1`, "no slot")
	for _, rt := range e.console.table() {
		got := e.send(rt.method, strings.ReplaceAll(rt.path, "{$}", ""), nil)
		require.Contains(t, got.Header.Get("Content-Security-Policy"), "default-src 'none'", rt.path)
		require.NotContains(t, got.Header.Get("Content-Security-Policy"), "unsafe", rt.path)
		require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"), rt.path)
		require.Equal(t, "no-store", got.Header.Get("Cache-Control"), rt.path)
		require.NotContains(t, got.body, " style=", rt.path)
		require.NotRegexp(t, ` on[a-z]+=`, got.body, rt.path)
	}
}

func TestHostileContentStaysText(t *testing.T) {
	e := newEnv(t)
	const script = `<script>alert(1)</script>`
	long := strings.Repeat("x", 3<<20)
	for name, payload := range map[string]string{
		"script":  script,
		"long":    long,
		"bytes":   "\xff\xfe\x00" + script,
		"turning": "abc\u202egnp.exe",
		"json":    `{"a":"</pre>` + script + `"}`,
		"deep":    strings.Repeat("[", 9000) + strings.Repeat("1,\n", 900_000) + "1" + strings.Repeat("]", 9000),
		"event":   `{"specversion":"1.0","type":"` + strings.ReplaceAll(script, `"`, `'`) + `","data":1}`,
	} {
		topic := name + "<b>\u202etopic\"'&"
		e.dies(topic, payload, script+"\u202e\r\n\xff"+long[:1000])
	}
	seen := 0
	for id := 1; id <= 7; id++ {
		for _, as := range []string{"", "&as=json", "&as=text", "&as=hex"} {
			got := e.get(fmt.Sprintf("/dead-letter?id=%d%s", id, as))
			require.Equal(t, http.StatusOK, got.StatusCode)
			require.NotContains(t, got.body, "<script>alert", "%d%s", id, as)
			require.NotContains(t, got.body, "<b>")
			require.NotContains(t, got.body, "\u202e")
			require.Less(t, len(got.body), 1<<20)
			if strings.Contains(got.body, "&lt;script&gt;") {
				seen++
			}
		}
		saved := e.get(fmt.Sprintf("/dead-letter/payload?id=%d", id))
		require.Equal(t, "application/octet-stream", saved.Header.Get("Content-Type"))
		require.Contains(t, saved.Header.Get("Content-Disposition"), "attachment")
	}
	require.Equal(t, 7*4, seen, "the error of each is shown")
	for _, path := range []string{"/topics", "/dead-letters", "/dead-letters?view=list"} {
		got := e.get(path)
		require.NotContains(t, got.body, "<script>alert", path)
		require.NotContains(t, got.body, "<b>", path)
		// Where nobody sees it, a name stays what it is.
		require.NotContains(t, regexp.MustCompile(`<input type="hidden"[^>]*>`).ReplaceAllString(got.body, ""), "\u202e", path)
	}
}

func TestDeadLettersOfOneCauseAreOneRow(t *testing.T) {
	e := newEnv(t)
	for i := range 60 {
		e.dies("orders", `1`, fmt.Sprintf("no slot for order %d at host-%d", i, i%3))
	}
	e.dies("orders", `1`, "another")
	body := e.get("/dead-letters").body
	require.Equal(t, 2, strings.Count(body, `<th scope="row"`))
	require.Contains(t, body, `data-label="Count">60<`)
	list := e.get("/dead-letters?view=list&cause=" + url.QueryEscape("no slot for order # at host-#")).body
	require.Equal(t, 50, strings.Count(list, `<th scope="row"`))
	const grouped = `<a href="/dead-letters?cause=no&#43;slot&#43;for&#43;order&#43;%23&#43;at&#43;host-%23">`
	require.Contains(t, list, grouped+"By cause</a>", "the same filter")
	more := regexp.MustCompile(`href="([^"]*after=[^"]*)"`).FindStringSubmatch(list)
	require.NotNil(t, more)
	require.Equal(t, 10, strings.Count(e.get(html.UnescapeString(more[1])).body, `<th scope="row"`))

	got := e.send(http.MethodPost, "/dead-letters/purge", url.Values{"all": {"yes"}, "cause": {"another"}})
	require.Contains(t, got.body, "purge 1")
	require.Contains(t, got.body, `<a href="/dead-letters?cause=another">Keep them</a>`)
	require.Equal(t, 61, e.dead(), "it asks first")
	got = e.send(http.MethodPost, "/dead-letters/purge", url.Values{"all": {"yes"}, "cause": {"another"}, "confirm": {"purge 2"}})
	require.Contains(t, got.body, "another text")
	require.Equal(t, 61, e.dead())
	got = e.send(http.MethodPost, "/dead-letters/purge", url.Values{"all": {"yes"}, "cause": {"another"}, "confirm": {"purge 1"}})
	require.Equal(t, http.StatusSeeOther, got.StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(e.get(got.Header.Get("Location")).body, "1 of 1 purged") }, longTime, time.Millisecond)
	require.Equal(t, 60, e.dead())

	got = e.send(http.MethodPost, "/dead-letters/redrive", url.Values{"id": {"1", "2"}})
	require.Equal(t, http.StatusSeeOther, got.StatusCode)
	require.Equal(t, 58, e.dead())
	require.Contains(t, e.log.String(), "from 127.0.0.1", "the log says who")
}

// What a form says of a cause selects it, whatever an app puts into its errors.
func TestACauseIsSelectedByItsForm(t *testing.T) {
	e := newEnv(t)
	for _, text := range []string{"", "\x00two\r\nlines <7>\u202e", strings.Repeat("long é", 100), "\xff\xfe"} {
		e.dies("orders", `1`, text)
	}
	field := regexp.MustCompile(`name="cause" value="([^"]*)"`)
	for left := 4; left > 0; left-- {
		cause := field.FindStringSubmatch(e.get("/dead-letters").body)
		require.NotNil(t, cause)
		form := url.Values{"all": {"yes"}, "cause": {html.UnescapeString(cause[1])}, "confirm": {"purge 1"}}
		require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/dead-letters/purge", form).StatusCode, "%q", cause[1])
		require.Eventually(t, func() bool { return e.dead() == left-1 }, longTime, time.Millisecond)
	}
}

func TestJobsAreFewAndCanBeStopped(t *testing.T) {
	e := newEnv(t)
	for range admin.MaxJobs + 1 { // each job takes one at once
		e.dies("orders", `1`, "no slot")
	}
	slow := url.Values{"all": {"yes"}, "rate": {"0.01"}}
	var last answer
	for range admin.MaxJobs {
		last = e.send(http.MethodPost, "/dead-letters/redrive", slow)
		require.Equal(t, http.StatusSeeOther, last.StatusCode)
	}
	require.Equal(t, http.StatusServiceUnavailable, e.send(http.MethodPost, "/dead-letters/redrive", slow).StatusCode)
	require.Equal(t, admin.MaxJobs, strings.Count(e.get("/dead-letters").body, `href="/job?id=`), "who has closed the page finds them again")
	id := strings.TrimPrefix(last.Header.Get("Location"), "/job?id=")
	require.Equal(t, http.StatusSeeOther, e.send(http.MethodPost, "/job/stop", url.Values{"id": {id}}).StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(e.get("/job?id="+id).body, "it was stopped") }, longTime, time.Millisecond)
	require.Contains(t, e.get("/dead-letters").body, "canceled")
	e.dies("bills", `1`, "no slot")
	purge := url.Values{"topic": {"bills"}, "all": {"yes"}, "rate": {"0.02"}}
	require.Contains(t, e.send(http.MethodPost, "/dead-letters/purge", purge).body, `name="rate" value="0.02"`)
	purge.Set("confirm", "purge 1")
	got := e.send(http.MethodPost, "/dead-letters/purge", purge)
	require.Equal(t, http.StatusSeeOther, got.StatusCode)
	job := e.get(got.Header.Get("Location")).body
	require.Contains(t, job, "0.02/s at most")
	require.Contains(t, job, `href="/dead-letters?topic=bills"`)
	require.Equal(t, http.StatusNotFound, e.get("/job?id=999").StatusCode)
}

// An open page is sent what changes, and ends with the console.
func TestLive(t *testing.T) {
	e := newEnv(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.server.URL+"/dead-letters", nil)
	require.NoError(t, err)
	req.AddCookie(e.cookie)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := e.server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	next := func() string {
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				return data
			}
		}
	}
	require.Contains(t, next(), "No dead letters")
	e.dies("orders", `1`, "no slot\r\rdata: x")
	for !strings.Contains(next(), "no slot data: x") {
	}
	require.NoError(t, e.console.Stop(t.Context()))
	_, err = io.Copy(io.Discard, lines)
	require.NoError(t, err, "the answer comes to its end")
}

func TestToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), TokenFileName)
	require.NoError(t, MakeToken(path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	made, err := ReadToken(path)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(made), 26, "130 bits in base32")
	require.NoError(t, MakeToken(path))
	again, err := ReadToken(path)
	require.NoError(t, err)
	require.Equal(t, made, again, "it stays")
	for _, bad := range []string{"", "short", "with a space in it, and long enough", strings.Repeat("x", 513), "sixteen-letters-é"} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := ReadToken(path)
		require.ErrorContains(t, err, "16 to 512", bad)
	}
}

// A list has room for the beginning of an error. The page of the dead letter has it all.
func TestALongErrorIsShownInFull(t *testing.T) {
	e := newEnv(t)
	e.dies("orders", `1`, strings.Repeat("word ", 100)+"end")
	require.Contains(t, e.get("/dead-letter?id=1").body, `word end</bdi></p>`)
	for _, list := range []string{"/dead-letters", "/dead-letters?view=list"} {
		require.NotContains(t, e.get(list).body, "word end</bdi>")
	}
}
