package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

const (
	// maxGroups bounds the rows of the page that shows causes, and listSize those of a list.
	maxGroups = 200
	listSize  = 50
)

// selection says which dead letters are meant.
type selection struct {
	admin.Bucket
	Topic, Group, Reason, Text string
	// Cause is that of an admin.DeadLetterGroup.
	Cause string
	// Since is how long ago they died at most; zero: whenever.
	Since time.Duration
	// at is when Since was read.
	at time.Time
}

// ages are what a person can choose as selection.Since.
var ages = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

func (c *Console) selectionOf(values url.Values) (selection, error) {
	s := selection{
		Bucket: bucketOf(values), Topic: values.Get("topic"), Group: values.Get("group"), Reason: values.Get("reason"),
		Text: values.Get("text"), Cause: values.Get("cause"),
		at: c.opts.Clock.Now(),
	}
	if s.Text != "" && c.opts.HideValues {
		return s, invalid.New("text", s.Text, "nothing while payloads are hidden, as it would find them out")
	}
	if text := values.Get("since"); text != "" {
		var err error
		if s.Since, err = time.ParseDuration(text); err != nil || s.Since < 0 {
			return s, invalid.New("since", text, "a duration such as 1h")
		}
	}
	return s, nil
}

// Link is where what is selected is shown by cause, or with further parameters.
func (s selection) Link(more ...any) string {
	return link("/dead-letters", append([]any{
		s.Bucket, "topic", s.Topic, "group", s.Group, "reason", s.Reason, "text", s.Text, "cause", s.Cause, "since", s.Since,
	}, more...)...)
}

// Filtered reports whether it selects fewer than all of the bucket.
func (s selection) Filtered() bool {
	return s.Topic+s.Group+s.Reason+s.Text+s.Cause != "" || s.Since > 0
}

func (s selection) options() admin.ListOptions {
	o := admin.ListOptions{Bucket: s.Bucket, Topic: s.Topic, Group: s.Group, Reason: pubsub.Reason(s.Reason), Cause: s.Cause, Text: s.Text}
	if s.Since > 0 {
		o.Since = s.at.Add(-s.Since)
	}
	return o
}

// deathCause are the dead letters of one cause.
type deathCause struct {
	admin.DeadLetterGroup
	// What selects them.
	What selection
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
	// Read is how many were found for Causes, and Hidden how many of them are of too rare causes to be shown; More says that
	// there may be further ones.
	Read, Hidden int
	More         bool
	Letters      []admin.DeadLetter
	Jobs         []shownJob
	// Next is where the list goes on; empty: nowhere.
	Next string
}

func (c *Console) deadLetters(r *http.Request) (*page, error) {
	values := r.URL.Query()
	s, err := c.selectionOf(values)
	if err != nil {
		return nil, err
	}
	p := deadLettersPage{selection: s, Ages: ages, List: values.Get("view") == "list", Reasons: pubsub.Reasons}
	buckets, err := admin.CallBuckets.Do(r.Context(), c.opts.Service, admin.Empty{})
	if err != nil {
		return nil, err
	}
	if p.Buckets = buckets.Buckets; !slices.Contains(p.Buckets, s.Bucket) {
		p.Buckets = append(p.Buckets, s.Bucket)
	}
	if p.Jobs, err = c.jobs(r.Context()); err != nil {
		return nil, err
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

func (c *Console) listLetters(r *http.Request, p *deadLettersPage) (err error) {
	opts := p.options()
	opts.Limit = listSize
	if r.URL.Query().Get("after") != "" {
		if opts.After, err = idOf(r.URL.Query(), "after"); err != nil {
			return err
		}
	}
	found, err := admin.CallDeadLetters.Do(r.Context(), c.opts.Service, opts)
	if err != nil {
		return err
	}
	if p.Letters = found.DeadLetters; found.Next > 0 {
		p.Next = p.Link("view", "list", "after", found.Next)
	}
	return nil
}

func (c *Console) groupLetters(ctx context.Context, p *deadLettersPage) error {
	found, err := admin.CallDeadLetterGroups.Do(ctx, c.opts.Service, p.options())
	if err != nil {
		return err
	}
	p.More = found.Next > 0
	for _, g := range found.Groups {
		p.Read += g.Count
		if len(p.Causes) == maxGroups {
			p.Hidden += g.Count
			continue
		}
		what := p.selection
		what.Topic, what.Group, what.Reason, what.Cause = g.Topic, g.Group, string(g.Reason), g.Cause
		p.Causes = append(p.Causes, deathCause{g, what})
	}
	return nil
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
		return nil, invalid.New("marked", strconv.Itoa(len(ids)), fmt.Sprintf("1 to %d dead letters", admin.MaxIDs))
	}
	return ids, nil
}

// rateOf reads how many dead letters a second are redriven or purged; 0: as fast as it goes.
func rateOf(values url.Values) (float64, error) {
	text := values.Get("rate")
	if text == "" {
		return 0, nil
	}
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, invalid.New("rate", text, "events per second, or nothing")
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
		return c.startJob(r, admin.JobRedrive, s, rate)
	}
	return c.applyMarked(r, admin.JobRedrive, s)
}

func (c *Console) startJob(r *http.Request, action admin.JobAction, s selection, rate float64) (next, error) {
	j, err := c.opts.Service.StartJob(r.Context(), admin.JobRequest{Action: action, Filter: s.options(), Rate: rate})
	if err != nil {
		return next{}, err
	}
	return next{to: link("/job", "id", j.ID)}, nil
}

func (c *Console) applyMarked(r *http.Request, action admin.JobAction, s selection) (next, error) {
	ids, err := chosen(r.PostForm)
	if err != nil {
		return next{}, err
	}
	done, err := c.opts.Service.Apply(r.Context(), action, admin.IDsRequest{Bucket: s.Bucket, IDs: ids})
	if err != nil {
		return next{}, err
	}
	notice := "redriven"
	switch {
	case done < len(ids):
		notice = "some"
	case action == admin.JobPurge:
		notice = "purged"
	}
	return after(s.Link("view", r.PostForm.Get("view")), notice), nil
}

// purgeConfirmation is what the page asks before a purge.
type purgeConfirmation struct {
	selection
	IDs  []uint64
	View string
	// Count is how many there are; More says that it is at least that many.
	Count int
	More  bool
	// Rate is as the form has it that began this.
	Rate string
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
	rate, err := rateOf(r.PostForm)
	if err != nil {
		return next{}, err
	}
	ask := purgeConfirmation{selection: s, View: r.PostForm.Get("view"), Rate: r.PostForm.Get("rate")}
	all := r.PostForm.Has(allOf)
	if all {
		var found admin.DeadLetterGroups
		found, err = admin.CallDeadLetterGroups.Do(r.Context(), c.opts.Service, s.options())
		for _, g := range found.Groups {
			ask.Count += g.Count
		}
		ask.More = found.Next > 0
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
		return c.startJob(r, admin.JobPurge, s, rate)
	}
	return c.applyMarked(r, admin.JobPurge, s)
}
