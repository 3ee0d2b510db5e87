package console

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

// removal is what the page asks before something is removed for good.
type removal struct {
	Title, Section string
	// Lost says what is gone then.
	Lost string
	// Name says what it is. Words are to be typed; by default, they are the name. Wrong says that something else was typed.
	Name, Words string
	Wrong       bool
	// Verb is on the button; by default, it is Remove.
	Verb string
	// Path is where the form goes, with Fields.
	Path   string
	Fields []field
	Back   string
}

// confirmed reports whether the words were typed, else the page asks for them.
func (r *removal) confirmed(request *http.Request) (*page, bool) {
	r.Words, r.Verb = cmp.Or(r.Words, r.Name), cmp.Or(r.Verb, "Remove")
	typed := strings.TrimSpace(request.PostForm.Get("confirm"))
	if typed == strings.TrimSpace(r.Words) && typed != "" {
		return nil, true
	}
	r.Path, r.Wrong = request.URL.Path, typed != ""
	return &page{Title: r.Title, Section: r.Section, template: "removal.html", Data: r}, false
}

// bucketFields name a bucket in a form.
func bucketFields(b admin.Bucket) []field {
	return []field{{"database", b.Database}, {"bucket", b.Name}}
}

func (c *Console) removeGroup(r *http.Request) (next, error) {
	bucket, topic, group := bucketOf(r.PostForm), r.PostForm.Get("topic"), r.PostForm.Get("group")
	detail, err := admin.CallTopic.Do(r.Context(), c.opts.Service, admin.TopicRequest{Bucket: bucket, Topic: topic})
	if err != nil {
		return next{}, err
	}
	ask := removal{
		Title: "Remove a group", Section: sectionTopics, Name: group, Back: link("/topic", bucket, "topic", topic),
		Fields: append(bucketFields(bucket), field{"topic", topic}, field{"group", group}),
	}
	for _, g := range detail.Groups {
		if g.Group == group {
			ask.Lost = fmt.Sprintf("The topic forgets what the group is owed: %s, %s and %s. It must have no instances: stop its app first.",
				plural(g.Waiting, "waiting event", "waiting events"), plural(g.Retrying, "retry", "retries"), plural(g.Dead, "dead letter", "dead letters"))
		}
	}
	if ask.Lost == "" {
		return next{}, admin.Refuse(http.StatusNotFound, "topic %q has no group %q", short(topic), short(group))
	}
	if asked, ok := ask.confirmed(r); !ok {
		return next{page: asked}, nil
	}
	request := admin.GroupRequest{Bucket: bucket, Topic: topic, Group: group}
	if _, err := admin.CallRemoveGroup.Do(r.Context(), c.opts.Service, request); err != nil {
		return next{}, err
	}
	return after(ask.Back, "removed"), nil
}

func (c *Console) removeTopic(r *http.Request) (next, error) {
	request := admin.TopicRequest{Bucket: bucketOf(r.PostForm), Topic: r.PostForm.Get("topic")}
	t, err := admin.CallTopic.Do(r.Context(), c.opts.Service, request)
	if err != nil {
		return next{}, err
	}
	ask := removal{
		Title: "Remove a topic", Section: sectionTopics, Name: request.Topic, Back: link("/topic", request.Bucket, "topic", request.Topic),
		Fields: append(bucketFields(request.Bucket), field{"topic", request.Topic}),
		Lost: fmt.Sprintf("It holds %s and %s, and %s. Nobody may consume it: stop the apps first.",
			plural(t.Stored, "event", "events"), plural(t.Dead, "dead letter", "dead letters"), plural(len(t.Groups), "consumer group", "consumer groups")),
	}
	if asked, ok := ask.confirmed(r); !ok {
		return next{page: asked}, nil
	}
	if _, err := admin.CallRemoveTopic.Do(r.Context(), c.opts.Service, request); err != nil {
		return next{}, err
	}
	return after("/topics", "topic"), nil
}

func (c *Console) removeBucket(r *http.Request) (next, error) {
	request := admin.RemoveBucketRequest{Kind: r.PostForm.Get("kind"), Bucket: stateBucketOf(r.PostForm)}
	ask := removal{
		Title: "Remove a bucket", Section: sectionState, Back: link("/state", request.Bucket),
		Lost: "All of its keys are gone for good. No sidecar may be connected to it: stop the apps first.",
	}
	to := "/state"
	if request.Kind == string(sidecars.PubSub) {
		request.Bucket = bucketOf(r.PostForm)
		ask.Section, ask.Back, to = sectionTopics, "/topics", "/topics"
		ask.Lost = "All of its topics, consumer groups and dead letters are gone for good. No sidecar may be connected to it: stop the apps first."
	}
	ask.Name = request.Bucket.String()
	ask.Fields = append(bucketFields(request.Bucket), field{"kind", request.Kind})
	if asked, ok := ask.confirmed(r); !ok {
		return next{page: asked}, nil
	}
	if _, err := admin.CallRemoveBucket.Do(r.Context(), c.opts.Service, request); err != nil {
		return next{}, err
	}
	return after(to, "bucket"), nil
}
