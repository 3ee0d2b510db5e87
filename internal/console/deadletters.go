package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// maxGrouped is how many dead letters a page reads to group them.
	maxGrouped = 10_000
	// maxGroups bounds the rows of that page, and listSize those of a list.
	maxGroups = 200
	listSize  = 50
)

// selection says which dead letters are meant.
type selection struct {
	admin.Bucket
	Topic, Group, Reason, Text string
	// Kind is that of the error; see kindOf.
	Kind string
	// Since is how long ago they died at most; zero: whenever.
	Since time.Duration
	// at is when Since was read.
	at time.Time
}

// ages are what a person can choose as selection.Since.
var ages = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

func (c *Console) selectionOf(values url.Values) (selection, error) {
	s := selection{
		Bucket: bucketOf(values),
		Topic:  values.Get("topic"), Group: values.Get("group"), Reason: values.Get("reason"),
		Text: values.Get("text"), Kind: values.Get("kind"),
		at: c.opts.Clock.Now(),
	}
	if s.Text != "" && c.opts.HideValues {
		return s, &fieldError{"text", s.Text, "nothing while payloads are hidden, as it would find them out"}
	}
	if text := values.Get("since"); text != "" {
		var err error
		if s.Since, err = time.ParseDuration(text); err != nil || s.Since < 0 {
			return s, &fieldError{"since", text, "a duration such as 1h"}
		}
	}
	return s, nil
}

// Query selects the same again.
func (s selection) Query() url.Values {
	query := of(s.Bucket)
	for name, value := range map[string]string{"topic": s.Topic, "group": s.Group, "reason": s.Reason, "text": s.Text, "kind": s.Kind} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if s.Since > 0 {
		query.Set("since", s.Since.String())
	}
	return query
}

// Link is where the list of what is selected is.
func (s selection) Link() string {
	query := s.Query()
	query.Set("view", "list")
	return "/dead-letters?" + query.Encode()
}

// Filtered reports whether it selects fewer than all of the bucket.
func (s selection) Filtered() bool {
	return s.Topic+s.Group+s.Reason+s.Text+s.Kind != "" || s.Since > 0
}

func (s selection) options(after uint64) admin.ListOptions {
	o := admin.ListOptions{Bucket: s.Bucket, Topic: s.Topic, Group: s.Group, Text: s.Text, After: after, Limit: admin.MaxPageSize}
	if s.Since > 0 {
		o.Since = s.at.Add(-s.Since)
	}
	return o
}

func (s selection) has(d *admin.DeadLetter) bool {
	return (s.Reason == "" || string(d.Reason) == s.Reason) && (s.Kind == "" || kindOf(d) == s.Kind)
}

// each shows what is selected, by ascending id, until visit returns false.
func (s selection) each(ctx context.Context, service *admin.Service, visit func(d *admin.DeadLetter) bool) error {
	return s.eachAfter(ctx, service, 0, visit)
}

func (s selection) eachAfter(ctx context.Context, service *admin.Service, after uint64, visit func(d *admin.DeadLetter) bool) error {
	for {
		page, err := service.DeadLetters(ctx, s.options(after))
		if err != nil {
			return err
		}
		for i := range page.DeadLetters {
			if d := &page.DeadLetters[i]; s.has(d) && !visit(d) {
				return nil
			}
		}
		if after = page.Next; after == 0 {
			return nil
		}
	}
}

// particular is what differs between the errors of events that died of the same: numbers and ids.
var particular = regexp.MustCompile(`(?i)\b(0x)?[0-9a-f]*[0-9][0-9a-f-]*\b`)

// kindOf is the error of a dead letter, in one line, without what is particular: those of one cause have one kind.
func kindOf(d *admin.DeadLetter) string {
	if d.Event.Unreadable != "" {
		return string(pubsub.ReasonUnreadable)
	}
	return cmp.Or(particular.ReplaceAllString(short(cause.Of(d.LastError)), "#"), string(d.Reason))
}

// deathCause are the dead letters of one kind.
type deathCause struct {
	selection
	Example        string
	Count          int
	Oldest, Newest time.Time
	// First is the id of the oldest.
	First uint64
}

// deadLettersPage is what the page shows.
type deadLettersPage struct {
	selection
	Buckets []admin.Bucket
	Reasons []pubsub.Reason
	Ages    []time.Duration
	// List says that single dead letters are shown, instead of Causes.
	List   bool
	Causes []deathCause
	// Read is how many were read for Causes; More says that there are further ones.
	Read    int
	More    bool
	Letters []letterRow
	// Next is where the list goes on; empty: nowhere.
	Next string
}

type letterRow struct {
	*admin.DeadLetter
	Cause string
}

// Link is where the dead letter is shown.
func (l letterRow) Link() string { return letterLink(l.Bucket, l.ID) }

// Link is where what died of it is shown.
func (d deathCause) Link() string {
	if d.Count == 1 {
		return letterLink(d.Bucket, d.First)
	}
	return d.selection.Link()
}

func letterLink(bucket admin.Bucket, id uint64) string {
	query := of(bucket)
	query.Set("id", strconv.FormatUint(id, 10))
	return "/dead-letter?" + query.Encode()
}

func (c *Console) deadLetters(r *http.Request) (*page, error) {
	values := r.URL.Query()
	s, err := c.selectionOf(values)
	if err != nil {
		return nil, err
	}
	p := deadLettersPage{selection: s, Ages: ages, List: values.Get("view") == "list", Reasons: []pubsub.Reason{
		pubsub.ReasonMaxDeliver, pubsub.ReasonInterrupted, pubsub.ReasonExpired, pubsub.ReasonMaxAge, pubsub.ReasonTooLarge, pubsub.ReasonUnreadable,
	}}
	buckets, err := c.opts.Service.Buckets(r.Context())
	if err != nil {
		return nil, err
	}
	if p.Buckets = buckets.Buckets; !slices.Contains(p.Buckets, s.Bucket) {
		p.Buckets = append(p.Buckets, s.Bucket)
	}
	if p.List {
		err = c.listLetters(r, &p)
	} else {
		err = c.groupLetters(r.Context(), &p)
	}
	if err != nil {
		return nil, err
	}
	return &page{Title: "Dead letters", Section: sectionDeadLetters, Live: true, template: "dead-letters.html", Data: p}, nil
}

func (c *Console) listLetters(r *http.Request, p *deadLettersPage) error {
	var start uint64
	if r.URL.Query().Get("after") != "" {
		var err error
		if start, err = idOf(r.URL.Query(), "after"); err != nil {
			return err
		}
	}
	read := 0
	query := p.Query()
	query.Set("view", "list")
	return p.eachAfter(r.Context(), c.opts.Service, start, func(d *admin.DeadLetter) bool {
		if read++; len(p.Letters) == listSize {
			query.Set("after", strconv.FormatUint(p.Letters[listSize-1].ID, 10))
			p.Next = "/dead-letters?" + query.Encode()
			return false
		}
		p.Letters = append(p.Letters, letterRow{d, short(cause.Of(d.LastError))})
		return true
	})
}

func (c *Console) groupLetters(ctx context.Context, p *deadLettersPage) error {
	type key struct{ topic, group, reason, kind string }
	causes := map[key]*deathCause{}
	err := p.each(ctx, c.opts.Service, func(d *admin.DeadLetter) bool {
		if p.Read == maxGrouped {
			p.More = true
			return false
		}
		p.Read++
		k := key{d.Topic, d.Group, string(d.Reason), kindOf(d)}
		group := causes[k]
		if group == nil {
			if len(causes) == maxGroups {
				p.More = true
				return true
			}
			group = &deathCause{selection: p.selection, Oldest: d.Time, First: d.ID, Example: short(cause.Of(d.LastError))}
			group.Topic, group.Group, group.Reason, group.Kind = k.topic, k.group, k.reason, k.kind
			causes[k] = group
		}
		group.Count++
		group.Newest = d.Time
		return true
	})
	for _, group := range causes {
		p.Causes = append(p.Causes, *group)
	}
	slices.SortFunc(p.Causes, func(a, b deathCause) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.First, b.First)) })
	return err
}

// chosen returns the ids that are marked on a form.
func chosen(values url.Values) ([]uint64, error) {
	var ids []uint64
	for _, text := range values["id"] {
		id, err := idOf(url.Values{"id": {text}}, "id")
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 || len(ids) > admin.MaxIDs {
		return nil, &fieldError{"marked", strconv.Itoa(len(ids)), fmt.Sprintf("1 to %d dead letters", admin.MaxIDs)}
	}
	return ids, nil
}

// rateOf reads how many events a second are sent again; 0: as fast as it goes.
func rateOf(values url.Values) (float64, error) {
	text := values.Get("rate")
	if text == "" {
		return 0, nil
	}
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || rate < 0.01 || rate > 100_000 {
		return 0, &fieldError{"rate", text, "events per second from 0.01 to 100000, or nothing"}
	}
	return rate, nil
}

// allOf is a form's field that takes all of the selection, and not what is marked.
const allOf = "all"

func (c *Console) redrive(r *http.Request) (next, error) {
	s, err := c.selectionOf(r.PostForm)
	if err != nil {
		return next{}, err
	}
	if r.PostForm.Has(allOf) {
		rate, err := rateOf(r.PostForm)
		if err != nil {
			return next{}, err
		}
		return c.startJob(r, false, s, rate)
	}
	return c.applyMarked(r, false, s)
}

func (c *Console) startJob(r *http.Request, purge bool, s selection, rate float64) (next, error) {
	j, err := c.jobs.start(person(r), purge, s, rate)
	if err != nil {
		return next{}, err
	}
	return next{to: "/job?" + idQuery(j.ID).Encode()}, nil
}

func (c *Console) applyMarked(r *http.Request, purge bool, s selection) (next, error) {
	ids, err := chosen(r.PostForm)
	if err != nil {
		return next{}, err
	}
	done, err := apply(admin.By(r.Context(), person(r)), c.opts.Service, purge, admin.IDsRequest{Bucket: s.Bucket, IDs: ids})
	if err != nil {
		return next{}, err
	}
	notice := "redriven"
	switch {
	case done < len(ids):
		notice = "some"
	case purge:
		notice = "purged"
	}
	query := s.Query()
	if r.PostForm.Has("view") {
		query.Set("view", r.PostForm.Get("view"))
	}
	return after("/dead-letters", query, notice), nil
}

// purgeConfirmation is what the page asks before a purge.
type purgeConfirmation struct {
	selection
	IDs  []uint64
	View string
	// Count is how many there are; More says that it is at least that many.
	Count int
	More  bool
	// Words are to be typed; Wrong says that something else was.
	Words string
	Wrong bool
}

// purge asks first: what is to be typed names how many are lost.
func (c *Console) purge(r *http.Request) (next, error) {
	s, err := c.selectionOf(r.PostForm)
	if err != nil {
		return next{}, err
	}
	ask := purgeConfirmation{selection: s, View: r.PostForm.Get("view")}
	all := r.PostForm.Has(allOf)
	if all {
		err = s.each(r.Context(), c.opts.Service, func(*admin.DeadLetter) bool {
			if ask.Count == maxGrouped {
				ask.More = true
				return false
			}
			ask.Count++
			return true
		})
	} else {
		ask.IDs, err = chosen(r.PostForm)
		ask.Count = len(ask.IDs)
	}
	if err != nil {
		return next{}, err
	}
	if ask.Words = "purge " + strconv.Itoa(ask.Count); ask.More {
		ask.Words = "purge all"
	}
	typed := strings.TrimSpace(r.PostForm.Get("confirm"))
	if typed != ask.Words {
		ask.Wrong = typed != ""
		return next{page: &page{Title: "Purge", Section: sectionDeadLetters, template: "purge.html", Data: ask}}, nil
	}
	if all {
		return c.startJob(r, true, s, 0)
	}
	return c.applyMarked(r, true, s)
}
