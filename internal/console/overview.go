package console

import (
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// overviewPage is what the page shows.
type overviewPage struct {
	admin.Overview
	Needs []need
}

// need is something that needs a person, with where to look.
type need struct {
	Text, Link string
}

func (c *Console) overview(r *http.Request) (*page, error) {
	o, err := c.opts.Service.Overview(r.Context())
	if err != nil {
		return nil, err
	}
	p := overviewPage{Overview: o}
	for _, a := range o.Attention {
		n := need{Text: a.Text}
		switch {
		case a.Kind == admin.AttentionDeadLetters:
			n.Link = selection{Bucket: a.Bucket, Topic: a.Topic, Group: a.Group}.grouped()
		case a.Topic != "":
			n.Link = topicLink(a.Bucket, a.Topic)
		}
		p.Needs = append(p.Needs, n)
	}
	return &page{Title: "Overview", Section: sectionOverview, Live: true, template: "overview.html", Data: p}, nil
}
