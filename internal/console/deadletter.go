package console

import (
	"net/http"
	"strconv"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// deadLetterPage is what the page of a dead letter shows.
type deadLetterPage struct {
	*admin.DeadLetter
	// Attempts are newest first, as they are read.
	Attempts []attempt
	Payload  *content
	Metadata []field
	Event    []field
}

type attempt struct {
	admin.Attempt
	Number int
}

func (c *Console) letterOf(r *http.Request) (d admin.DeadLetter, data []byte, err error) {
	id, err := idOf(r.Form, "id")
	if err != nil {
		return d, nil, err
	}
	if d, err = admin.CallDeadLetter.Do(r.Context(), c.opts.Service, admin.IDRequest{Bucket: bucketOf(r.Form), ID: id}); err != nil {
		return d, nil, err
	}
	data, err = d.Event.Payload()
	return d, data, err
}

func (c *Console) deadLetter(r *http.Request) (*page, error) {
	d, data, err := c.letterOf(r)
	if err != nil {
		return nil, err
	}
	p := deadLetterPage{DeadLetter: &d, Metadata: c.metadataFields(d.Event.Metadata)}
	// The oldest may be missing. Interruptions are attempts, too, and no deliveries.
	before := max(d.Deliveries-len(d.Attempts), 0)
	for i := len(d.Attempts) - 1; i >= 0; i-- {
		p.Attempts = append(p.Attempts, attempt{d.Attempts[i], before + i + 1})
	}
	if !c.opts.HideValues {
		p.Payload = newContent(r, data, link("/dead-letter/payload", d.Bucket, "id", d.ID))
		p.Event = cloudEventFields(data)
	}
	return &page{Title: "Dead letter " + strconv.FormatUint(d.ID, 10), Section: sectionDeadLetters, template: "dead-letter.html", Data: p}, nil
}

func (c *Console) deadLetterPayload(r *http.Request) (string, []byte, error) {
	d, data, err := c.letterOf(r)
	return "dead-letter-" + strconv.FormatUint(d.ID, 10), data, err
}
