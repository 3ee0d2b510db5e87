package console

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// eventPage is what the page of an event shows.
type eventPage struct {
	admin.Bucket
	admin.EventDetail
	CloudEvent []field
	Metadata   []field
	Payload    *content
}

func (c *Console) eventOf(r *http.Request) (bucket admin.Bucket, e admin.EventDetail, data []byte, err error) {
	bucket = bucketOf(r.Form)
	sequence, err := idOf(r.Form, "sequence")
	if err != nil {
		return bucket, e, nil, err
	}
	e, err = admin.CallEvent.Do(r.Context(), c.opts.Service, admin.EventRequest{Bucket: bucket, Topic: r.Form.Get("topic"), Sequence: sequence})
	if err != nil {
		return bucket, e, nil, err
	}
	data, err = e.Payload()
	return bucket, e, data, err
}

func (c *Console) event(r *http.Request) (*page, error) {
	bucket, e, data, err := c.eventOf(r)
	if err != nil {
		return nil, err
	}
	p := eventPage{Bucket: bucket, EventDetail: e, Metadata: c.metadataFields(e.Metadata)}
	if e.Kept && !c.opts.HideValues {
		p.Payload = newContent(r, data, link("/event/payload", bucket, "topic", e.Topic, "sequence", e.Sequence))
		p.CloudEvent = cloudEventFields(data)
	}
	return &page{Title: "Event " + strconv.FormatUint(e.Sequence, 10), Section: sectionTopics, Live: true, template: "event.html", Data: p}, nil
}

func (c *Console) eventPayload(r *http.Request) (string, []byte, error) {
	_, e, data, err := c.eventOf(r)
	return "event-" + strconv.FormatUint(e.Sequence, 10), data, err
}

func (c *Console) retryNow(r *http.Request) (next, error) {
	return c.changeRetry(r, "retried", admin.CallRetryNow)
}

func (c *Console) skip(r *http.Request) (next, error) {
	return c.changeRetry(r, "skipped", admin.CallRetrySkip)
}

func (c *Console) changeRetry(r *http.Request, notice string, change admin.Call[admin.RetryRequest, admin.Empty]) (next, error) {
	sequence, err := idOf(r.PostForm, "sequence")
	if err != nil {
		return next{}, err
	}
	request := admin.RetryRequest{Bucket: bucketOf(r.PostForm), Topic: r.PostForm.Get("topic"), Group: r.PostForm.Get("group"), Sequence: sequence}
	if _, err := change.Do(r.Context(), c.opts.Service, request); err != nil {
		return next{}, err
	}
	return after(link("/event", request.Bucket, "topic", request.Topic, "sequence", sequence), notice), nil
}

// publish publishes what a person has typed, as a CloudEvent or as it is.
func (c *Console) publish(r *http.Request) (next, error) {
	bucket, topic := bucketOf(r.PostForm), r.PostForm.Get("topic")
	metadata, err := metadataOf(r.PostForm)
	if err != nil {
		return next{}, err
	}
	_, err = admin.CallPublish.Do(r.Context(), c.opts.Service, admin.PublishRequest{
		Bucket: bucket, Topic: topic, Content: admin.ExactContent([]byte(r.PostForm.Get("data"))),
		Raw: r.PostForm.Has("raw"), ID: r.PostForm.Get("id"), Type: r.PostForm.Get("type"), Source: r.PostForm.Get("source"),
		ContentType: r.PostForm.Get("contentType"), Metadata: metadata,
	})
	if err != nil {
		return next{}, err
	}
	return after(link("/topic", bucket, "topic", topic), "published"), nil
}

// metadataOf reads a key=value from each line.
func metadataOf(values url.Values) (map[string]string, error) {
	metadata := map[string]string{}
	for line := range strings.Lines(values.Get("metadata")) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "":
		case !ok || key == "":
			return nil, invalid.New("metadata", line, "key=value on each line")
		default:
			metadata[key] = value
		}
	}
	return metadata, nil
}
