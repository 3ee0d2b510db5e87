package console

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Of more topics than a page reads, each is found: by its name, and on the page after.
func TestEveryTopicIsFound(t *testing.T) {
	e := newEnv(t)
	var publishing errgroup.Group
	publishing.SetLimit(64)
	for i := range admin.MaxPageSize + 1 {
		publishing.Go(func() error {
			return e.broker.Publish(t.Context(), fmt.Sprintf("Topic-%04d", i), []pubsub.Message{{Data: []byte("1")}}, pubsub.PublishOptions{})[0]
		})
	}
	require.NoError(t, publishing.Wait())
	last := fmt.Sprintf("Topic-%04d", admin.MaxPageSize)
	first := e.get("/topics")
	require.NotContains(t, first.body, last)
	require.Contains(t, first.body, "The first 1,000 topics")
	require.Contains(t, e.get("/topics?text=topic-"+last[6:]).body, last+"</bdi>")
	require.Contains(t, e.get("/topics?text=nowhere").body, "No topic")
	more := regexp.MustCompile(`href="([^"]*after=[^"]*)"`).FindStringSubmatch(first.body)
	require.NotNil(t, more)
	next := e.get(html.UnescapeString(more[1]))
	require.Contains(t, next.body, last)
	require.Equal(t, 1, strings.Count(next.body, `<th scope="row"`))
}

// A name is a name, whatever it looks like.
func TestATopicNamedZeroIsReached(t *testing.T) {
	e := newEnv(t)
	require.NoError(t, e.broker.Publish(t.Context(), "0", []pubsub.Message{{Data: []byte("1")}}, pubsub.PublishOptions{})[0])
	require.Contains(t, e.get("/topics").body, `href="/topic?topic=0"`)
	require.Contains(t, e.get("/topic?topic=0").body, `href="/event?sequence=1&amp;topic=0"`)
	require.Contains(t, e.get("/event?topic=0&sequence=1").body, `href="/topic?topic=0"`, "and back")
}
