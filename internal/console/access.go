package console

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The paths that need no cookie.
const (
	loginPath = "/login"
	stylePath = "/assets/style.css"
	codePath  = "/assets/console.js"
	iconPath  = "/assets/icon.svg"
)

// cookieName is followed by the port: browsers send a host's cookies to all of its ports.
const cookieName = "dapr-bolt-console-"

// policy lets a page load nothing from elsewhere, run none but our code, be framed by nobody, and send forms only here.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// refusedEvery is how often the log says that requests were refused.
const refusedEvery = time.Minute

// guard lets through to next what the route allows.
func (c *Console) guard(rt route, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")

		switch {
		case !c.knowsHost(r.Host):
			c.refuse(w, r, http.StatusMisdirectedRequest, fmt.Sprintf("The console is not reached by the name %q: take the link that dapr-bolt console prints, or allow the name with --console-host.", r.Host))
		case c.isForeign(r):
			c.refuse(w, r, http.StatusForbidden, "The request comes from a page of another origin.")
		case !rt.open && !c.hasCookie(r):
			c.refuse(w, r, http.StatusUnauthorized, "")
		case rt.change && c.opts.ReadOnly:
			c.refuse(w, r, http.StatusForbidden, "The console is read-only: dapr-bolt was started with --console-read-only.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// knowsHost reports whether the console is reached by what a Host header says: DNS rebinding leads browsers here under
// other names.
func (c *Console) knowsHost(host string) bool {
	return slices.Contains(c.addresses, strings.ToLower(host)) || c.isProxied(host)
}

// isProxied reports whether the name is one of Options.Hosts, for which a proxy brings TLS, on whatever port.
func (c *Console) isProxied(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	return slices.ContainsFunc(c.opts.Hosts, func(given string) bool { return strings.EqualFold(given, name) })
}

// isForeign reports whether a page of another origin sent the request. It is stricter than http.CrossOriginProtection,
// which lets every GET through: of those, it allows only that a person follows a link.
func (c *Console) isForeign(r *http.Request) bool {
	if r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Origin") == "" {
		return false
	}
	change := *r
	change.Method = http.MethodPost
	return c.origins.Check(&change) != nil
}

func (c *Console) hasCookie(r *http.Request) bool {
	cookie, err := r.Cookie(c.cookieName)
	return err == nil && c.credential.isCookie(cookie.Value)
}

// refuse answers with a page that says why. The log hears of it now and then.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	c.mu.Lock()
	suppressed, ok := c.refusals.Allow(c.opts.Clock.Now(), refusedEvery)
	c.mu.Unlock()
	if ok {
		c.opts.Logger.Warn("the console refused a request", "status", status, "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr, "suppressed", suppressed)
	}
	c.write(w, r, &page{Title: http.StatusText(status), status: status, Outside: true, template: "refused.html", Data: refused{Why: why, Again: r.Method == http.MethodGet}})
}

// refused is what the page says on which a request ends that is not let in.
type refused struct {
	// Why is empty where the cookie is missing.
	Why string
	// Again says that the same link may work from here: browsers keep the cookie back from links on other sites.
	Again bool
}

// login puts the cookie into the browser that brings the token.
func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	if !c.credential.isToken(r.URL.Query().Get("token")) {
		c.refuse(w, r, http.StatusUnauthorized, "")
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: c.cookieName, Value: string(c.credential.cookie), Path: "/",
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: c.isProxied(r.Host),
	})
	c.opts.Logger.Info("a browser was let into the console", "from", r.RemoteAddr)
	// Not a redirect: after a link from elsewhere, the browser would keep the cookie back on it.
	c.write(w, r, &page{Title: "Welcome", Outside: true, template: "welcome.html"})
}
