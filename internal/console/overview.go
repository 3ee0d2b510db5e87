package console

import (
	"fmt"
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// overviewPage is what the page shows.
type overviewPage struct {
	admin.Overview
	Sparklines []sparkline
	Needs      []need
}

// need is something that needs a person, with where to look.
type need struct {
	Text, Link string
}

func (c *Console) overview(r *http.Request) (*page, error) {
	o, err := admin.CallOverview.Do(r.Context(), c.opts.Service, admin.Empty{})
	if err != nil {
		return nil, err
	}
	p := overviewPage{Overview: o}
	for _, each := range []struct {
		name   string
		values []float64
		show   func(float64) string
	}{
		{"State sets", o.Rates.Sets, perSecond}, {"State gets", o.Rates.Gets, perSecond},
		{"Publishes", o.Rates.Published, perSecond}, {"Deliveries", o.Rates.Delivered, perSecond},
		{"Failed deliveries", o.Rates.Failed, perSecond}, {"Commit latency", o.Rates.CommitSeconds, milliseconds},
	} {
		p.Sparklines = append(p.Sparklines, newSparkline(each.name, each.values, o.Rates.Every, each.show))
	}
	for _, a := range o.Attention {
		n := need{Text: a.Text}
		switch {
		case a.Kind == admin.AttentionDeadLetters:
			n.Link = link("/dead-letters", a.Bucket, "topic", a.Topic, "group", a.Group)
		case a.Topic != "":
			n.Link = link("/topic", a.Bucket, "topic", a.Topic)
		}
		if a.Kind == admin.AttentionNearLimit {
			n.Text = fmt.Sprintf("topic %s takes %s of the %s that its maxBytes allows", a.Topic, admin.ByteSize(a.Count), admin.ByteSize(a.Limit))
		}
		p.Needs = append(p.Needs, n)
	}
	return &page{Title: "Overview", Section: sectionOverview, Live: true, template: "overview.html", Data: p}, nil
}
