package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// pageTimeout bounds what making one page may take.
const pageTimeout = 20 * time.Second

// page is what a browser is shown.
type page struct {
	// Title names it.
	Title string
	// Section is that of the navigation that it is in; empty: none.
	Section string
	// Outside pages are for those who were not let in yet, and have no navigation.
	Outside bool
	// Live pages are kept up to date while they are open.
	Live bool
	// Notice says what the last change did.
	Notice string
	// Data is what the template shows.
	Data any

	template string
	status   int // default: 200

	// ReadOnly and HideValues are as in Options, Now is when the page was made.
	ReadOnly, HideValues bool
	Now                  time.Time
}

// The sections of the navigation.
const (
	sectionOverview    = "Overview"
	sectionTopics      = "Topics"
	sectionState       = "State"
	sectionDeadLetters = "Dead letters"
)

//go:embed templates
var templateFiles embed.FS

// templates are by the name of their file. Each has the layout around it.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	const dir, layout, parts = "templates/", "templates/layout.html", "templates/parts.html"
	base := template.Must(template.New("layout.html").Funcs(functions).ParseFS(templateFiles, layout, parts))
	files, err := fs.Glob(templateFiles, dir+"*.html")
	if err != nil {
		panic(err)
	}
	all := map[string]*template.Template{}
	for _, file := range files {
		if file != layout && file != parts {
			all[strings.TrimPrefix(file, dir)] = template.Must(template.Must(base.Clone()).ParseFS(templateFiles, file))
		}
	}
	return all
}

// render makes the part of the page that name defines.
func (c *Console) render(p *page, name string) ([]byte, error) {
	p.ReadOnly, p.HideValues, p.Now = c.opts.ReadOnly, c.opts.HideValues, c.opts.Clock.Now()
	var b bytes.Buffer
	if err := templates[p.template].ExecuteTemplate(&b, name, p); err != nil {
		return nil, fmt.Errorf("page %s: %w", p.template, err)
	}
	return b.Bytes(), nil
}

// write answers with the page.
func (c *Console) write(w http.ResponseWriter, r *http.Request, p *page) {
	if p.Notice == "" {
		p.Notice = notices[r.URL.Query().Get(noticeKey)]
	}
	body, err := c.render(p, "layout.html")
	if err != nil {
		c.opts.Logger.Error("a page of the console could not be made", "path", r.URL.Path, "error", err)
		http.Error(w, "this page could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.status != 0 {
		w.WriteHeader(p.status)
	}
	// An error here means that the browser has left.
	_, _ = w.Write(body)
}

// view makes a page of what is stored; it changes nothing.
type view func(r *http.Request) (*page, error)

// show serves a page, or what keeps it up to date.
func (c *Console) show(v view) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Form = r.URL.Query()
		if r.Header.Get("Accept") == "text/event-stream" {
			c.live.stream(w, r, func(ctx context.Context) ([]byte, error) {
				p, err := v(r.WithContext(ctx))
				if err != nil {
					p = c.problem(r, err)
				}
				return c.render(p, "main")
			})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
		defer cancel()
		p, err := v(r.WithContext(ctx))
		if err != nil {
			p = c.problem(r, err)
		}
		c.write(w, r, p)
	}
}

// next is what a browser is shown after a change: another page, or one that asks first.
type next struct {
	// to is a path with its query, to which the browser goes.
	to   string
	page *page
}

// after goes to a link, where the notice is shown.
func after(link, notice string) next {
	separator := "?"
	if strings.Contains(link, "?") {
		separator = "&"
	}
	return next{to: link + separator + noticeKey + "=" + notice}
}

// act serves a change.
func (c *Console) act(change func(r *http.Request) (next, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
		defer cancel()
		r = r.WithContext(admin.By(ctx, "the console, from "+r.RemoteAddr))
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		err := r.ParseForm()
		var n next
		if err == nil {
			n, err = change(r)
		}
		switch {
		case err != nil:
			c.write(w, r, c.problem(r, err))
		case n.page != nil:
			c.write(w, r, n.page)
		default:
			http.Redirect(w, r, n.to, http.StatusSeeOther)
		}
	}
}

// problem is the page that says what went wrong.
func (c *Console) problem(r *http.Request, err error) *page {
	status := statusOf(err)
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		c.opts.Logger.Error("a request to the console failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	p := problem{Error: err.Error()}
	if r.Method != http.MethodGet {
		p.Back, p.Typed = c.backPath(r.Referer()), status == http.StatusBadRequest
	}
	return &page{Title: http.StatusText(status), template: "problem.html", status: status, Data: p}
}

func statusOf(err error) int {
	if errors.Is(err, context.DeadlineExceeded) {
		return http.StatusGatewayTimeout
	}
	return admin.StatusOf(err)
}

// problem is what the page shows of an error.
type problem struct {
	Error, Back string
	// Typed says that something in the form is to be put right: Back must keep what was typed.
	Typed bool
}

// backPath is the path of the page that a form was on; empty: it is not known, or was the answer to another form.
func (c *Console) backPath(referer string) string {
	u, err := url.Parse(referer)
	if err != nil || u.Path == "" || c.isForm(u.Path) {
		return ""
	}
	return u.RequestURI()
}

// noticeKey is the query parameter that names the notice to show: the texts are ours.
const noticeKey = "done"

var notices = map[string]string{
	"redriven":  "Sent again: the event is back with its group, with a new count of deliveries.",
	"some":      "Done, but for those that were gone already, or cannot be read.",
	"purged":    "Purged: gone for good.",
	"removed":   "The group is removed.",
	"topic":     "The topic is removed.",
	"bucket":    "The bucket is removed.",
	"published": "Published.",
	"retried":   "The event is delivered again now.",
	"skipped":   "Skipped: the event is among the group's dead letters.",
	"set":       "Set.",
	"deleted":   "Deleted.",
	"stopped":   "The job was asked to stop.",
}
