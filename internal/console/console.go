// Package console shows what a running process holds in the browser, and lets people mend it: pages made of HTML on the
// server, over the admin API. Pages are kept up to date by server-sent events; without JavaScript they are as they were
// when they were loaded, and everything else works.
//
// It lets in who has the token, from the addresses that it listens on and from its own pages; see guard.
package console

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

// maxForm bounds what a form may send: a value of 4 MiB takes up to three times that.
const maxForm = 13 << 20

// Options for New.
type Options struct {
	// Service is what the pages show and change. Required.
	Service *admin.Service
	// Token lets people in; see ReadToken. Required.
	Token string
	// Addr is host:port on which the listener is reached. Required.
	Addr string
	// Hosts are further names by which browsers reach the console, through a proxy that brings TLS.
	Hosts []string
	// ReadOnly refuses every change.
	ReadOnly bool
	// HideValues shows no payload of an event and no value of a key.
	HideValues bool
	// Clock default: the system's.
	Clock clockwork.Clock
	// Logger hears who was let in, and what people changed. Default: slog.Default().
	Logger *slog.Logger
}

// Console is the pages. The caller must Stop it.
type Console struct {
	opts       Options
	credential credential
	cookieName string
	// addresses are the Host headers of browsers that come without a proxy.
	addresses []string
	origins   *http.CrossOriginProtection
	handler   http.Handler
	live      *live

	// mu guards refusals.
	mu       sync.Mutex
	refusals throttled.Log
}

// New returns the Console of a listener.
func New(opts Options) (*Console, error) {
	opts.Clock = cmp.Or[clockwork.Clock](opts.Clock, clockwork.NewRealClock())
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	host, port, err := net.SplitHostPort(opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("console: address %q: %w", opts.Addr, err)
	}
	ip := net.ParseIP(host)
	loopback := ip != nil && ip.IsLoopback()
	if !loopback && len(opts.Hosts) == 0 {
		return nil, fmt.Errorf("console: others than this machine's users reach %s: allowed: with names of hosts", opts.Addr)
	}
	c := &Console{
		opts:       opts,
		credential: newCredential(opts.Token),
		cookieName: cookieName + port,
		origins:    http.NewCrossOriginProtection(),
		live:       newLive(opts.Clock),
	}
	if loopback {
		for _, name := range []string{host, "localhost"} {
			c.addresses = append(c.addresses, net.JoinHostPort(name, port))
		}
	}
	c.handler = c.routes()
	return c, nil
}

// URL is where browsers reach the console.
func (c *Console) URL() string {
	if len(c.addresses) > 0 {
		return "http://" + c.addresses[0]
	}
	return "https://" + c.opts.Hosts[0]
}

// Link is the link that lets a browser in.
func (c *Console) Link() string { return Link(c.URL(), c.opts.Token) }

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// Stop ends what keeps pages up to date.
func (c *Console) Stop(context.Context) error {
	c.live.cancel()
	return nil
}

// route is one thing that a browser may ask for.
type route struct {
	method, path string
	// change says that it changes what is stored.
	change bool
	// open says that it needs no cookie: it shows nothing of what is stored.
	open   bool
	handle http.HandlerFunc
}

// table lists all routes. A change is a POST, and all else a GET.
func (c *Console) table() []route {
	return []route{
		{method: "GET", path: "/{$}", handle: c.show(c.overview)},
		{method: "GET", path: "/topics", handle: c.show(c.topics)},
		{method: "GET", path: "/topic", handle: c.show(c.topic)},
		{method: "POST", path: "/topic/publish", change: true, handle: c.act(c.publish)},
		{method: "GET", path: "/event", handle: c.show(c.event)},
		{method: "GET", path: "/event/payload", handle: c.save(c.eventPayload)},
		{method: "POST", path: "/event/retry-now", change: true, handle: c.act(c.retryNow)},
		{method: "POST", path: "/event/skip", change: true, handle: c.act(c.skip)},
		{method: "GET", path: "/state", handle: c.show(c.state)},
		{method: "GET", path: "/state/key", handle: c.show(c.key)},
		{method: "GET", path: "/state/key/value", handle: c.save(c.keyValue)},
		{method: "POST", path: "/state/key/set", change: true, handle: c.act(c.setKey)},
		{method: "POST", path: "/state/key/delete", change: true, handle: c.act(c.deleteKey)},
		{method: "GET", path: "/state/query", handle: c.show(c.query)},
		{method: "GET", path: "/state/idempotency-keys", handle: c.show(c.idempotencyKeys)},
		{method: "POST", path: "/bucket/remove", change: true, handle: c.act(c.removeBucket)},
		{method: "POST", path: "/topic/remove", change: true, handle: c.act(c.removeTopic)},
		{method: "POST", path: "/topic/remove-group", change: true, handle: c.act(c.removeGroup)},
		{method: "GET", path: "/dead-letters", handle: c.show(c.deadLetters)},
		{method: "POST", path: "/dead-letters/redrive", change: true, handle: c.act(c.redrive)},
		{method: "POST", path: "/dead-letters/purge", change: true, handle: c.act(c.purge)},
		{method: "GET", path: "/dead-letter", handle: c.show(c.deadLetter)},
		{method: "GET", path: "/dead-letter/payload", handle: c.save(c.deadLetterPayload)},
		{method: "GET", path: "/job", handle: c.show(c.job)},
		{method: "POST", path: "/job/stop", change: true, handle: c.act(c.stopJob)},

		{method: "GET", path: loginPath, open: true, handle: c.login},
		{method: "GET", path: stylePath, open: true, handle: asset},
		{method: "GET", path: codePath, open: true, handle: asset},
		{method: "GET", path: iconPath, open: true, handle: asset},
	}
}

// Routes returns what a browser may ask for that has the cookie, each as a method and a path.
func Routes() (routes []string) {
	for _, rt := range new(Console).table() {
		if !rt.open {
			routes = append(routes, rt.method+" "+strings.TrimSuffix(rt.path, "{$}"))
		}
	}
	return routes
}

func (c *Console) routes() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range c.table() {
		mux.Handle(rt.method+" "+rt.path, c.guard(rt, rt.handle))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Who is not let in does not hear what is not there either.
		if handler, pattern := mux.Handler(r); pattern == "" {
			if r.Method == http.MethodGet {
				handler = http.HandlerFunc(c.noPage)
			}
			c.guard(route{}, handler).ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// noPage answers a GET that no route serves: the path of a form, which a browser asks for when a person loads its answer
// again by the address, or none of ours.
func (c *Console) noPage(w http.ResponseWriter, r *http.Request) {
	status, why := http.StatusNotFound, fmt.Sprintf("there is no page %q", r.URL.Path)
	if c.isForm(r.URL.Path) {
		w.Header().Set("Allow", http.MethodPost)
		status, why = http.StatusMethodNotAllowed, fmt.Sprintf("%q takes a form, and is no page", r.URL.Path)
	}
	c.write(w, r, &page{Title: http.StatusText(status), template: "problem.html", status: status, Data: problem{Error: why}})
}

// isForm reports whether path takes forms, and shows no page to a GET.
func (c *Console) isForm(path string) bool {
	return slices.ContainsFunc(c.table(), func(rt route) bool { return rt.change && rt.path == path })
}

//go:embed assets
var assets embed.FS

func asset(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, assets, r.URL.Path[1:])
}
