package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/cluster"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// `make demo` shows what this test says.
func TestStory(t *testing.T) {
	t.Parallel()
	playStory(t, false)
}

// The story with each service in a "Pod" of its own, with a dapr-bolt of its own, over three servers of each kind; then a
// leader of each is killed while it works.
func TestStoryInTwoPods(t *testing.T) {
	t.Parallel()
	drill := cluster.Drill{Todo: playStory(t, true), Out: t.Output()}
	require.NoError(t, drill.Run(t.Context()))
}

const (
	// storyMaxDeliver and storyBackOff replace what the component file says, so that an event that always fails is given up on
	// while somebody watches.
	storyMaxDeliver = 3
	storyBackOff    = "200ms,400ms"

	copies           = 5
	taskCreatedTopic = "task-created"
	// poison is the word that the scheduler's handler is made to fail for.
	poison = "cursed"
)

// story is a todo app of its own and what has happened in it.
type story struct {
	*harness.Todo
	t      *testing.T
	doomed todo // created by the step whose handler fails
	letter admin.DeadLetter
}

func playStory(t *testing.T, onCluster bool) *harness.Todo {
	s := &story{t: t}
	s.say("starting the todo app: two services, a sidecar for each of them, and dapr-bolt")
	app, err := harness.ForTest(t).StartTodo(t.Context(), harness.TodoOptions{
		Cluster:       onCluster,
		PubSub:        []string{"maxDeliver", fmt.Sprint(storyMaxDeliver), "backOff", storyBackOff},
		SchedulerArgs: []string{"--allow-faults"},
	})
	require.NoError(t, err)
	s.Todo = app
	// Later steps build on what earlier ones left.
	steps := []struct {
		title string
		play  func()
	}{
		{"a todo is created, and the scheduler books a slot for it", s.created},
		{"a todo that cannot be booked is rejected by compensation", s.rejected},
		{"one event published five times with one id arrives once", s.duplicates},
		{fmt.Sprintf("an event whose handler always fails is a dead letter after %d deliveries", storyMaxDeliver), s.dead},
		{"with the handler mended and the dead letter redriven, the event is delivered", s.redriven},
		{"after SIGKILL of dapr-bolt and a restart, the todos are all there", s.killed},
		{"and its events flow again, though nobody restarted the sidecars", s.resubscribed},
	}
	for i, step := range steps {
		s.say("\n%d/%d %s", i+1, len(steps), step.title)
		began := time.Now()
		step.play()
		s.say("    seen in %s", time.Since(began).Round(time.Millisecond))
	}
	s.say("\nevery step was seen")
	return app
}

func (s *story) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.t.Output(), format+"\n", args...)
}

func (s *story) created() {
	t := s.createSoon("Water the plants")
	require.NotNil(s.t, t.Slot, "%+v", t)
	require.NotEmpty(s.t, t.DecidedBy, "the event that brought it")
	s.say("    booked for %s", t.Slot.Start.Format(time.RFC3339))
}

func (s *story) rejected() {
	made := s.create("Catch yesterday's train", time.Now().AddDate(0, 0, -1))
	t := s.seeStatus(made.ID, "rejected")
	require.Nil(s.t, t.Slot)
	require.Contains(s.t, t.Reason, "past")
	s.say("    because: %s", t.Reason)
}

// duplicates publishes through the sidecar what the api would publish, and then one more event: as events reach a group in
// publish order, its arrival says that all the copies that would ever arrive have done so.
func (s *story) duplicates() {
	due := soon()
	publish := func(id string) {
		content := map[string]any{"todoId": id, "title": "Told more than once", "due": due}
		require.NoError(s.t, s.API.Sidecar.Publish(s.t.Context(), harness.PubSubComponent, taskCreatedTopic, content,
			map[string]string{"cloudevent.id": createdEvent(id)}))
	}
	repeated, last := uuid.NewString(), uuid.NewString()
	for range copies {
		publish(repeated)
	}
	s.say("    event %s: published %d times, each accepted", createdEvent(repeated), copies)
	publish(last)
	s.seeCount(last, count{Deliveries: 1, Handled: 1})
	s.seeCount(repeated, count{Deliveries: 1, Handled: 1})
	var day struct{ Slots []string }
	require.NoError(s.t, s.Scheduler.Get(s.t.Context(), "/days/"+due.Format(time.DateOnly), &day))
	booked := slices.DeleteFunc(day.Slots, func(holder string) bool { return holder != repeated })
	require.Len(s.t, booked, 1)
}

func (s *story) dead() {
	s.breakHandler(poison)
	s.doomed = s.create("A "+poison+" task", soon())
	s.eventually(func(c *assert.CollectT) {
		letters := s.deadLetters(c)
		require.Len(c, letters, 1)
		s.letter = letters[0]
	})
	s.seeCount(s.doomed.ID, count{Deliveries: storyMaxDeliver})
	s.say("    dead letter %d: topic %s, group %s, deliveries %d, last error: %s", s.letter.ID, s.letter.Topic, s.letter.Group,
		s.letter.Deliveries, strings.Join(strings.Fields(s.letter.LastError), " "))
	require.Contains(s.t, s.letter.Event.ID, createdEvent(s.doomed.ID))
	require.EqualValues(s.t, storyMaxDeliver, s.letter.Deliveries)
	require.Contains(s.t, s.letter.LastError, "injected fault")
	require.Contains(s.t, s.letter.LastError, s.doomed.Title)
}

func (s *story) redriven() {
	s.breakHandler("")
	require.NoError(s.t, s.API.Bolt.Command(s.t.Context(), nil, "dead-letters", "redrive", fmt.Sprint(s.letter.ID),
		"--database", s.letter.Database, "--bucket", s.letter.Name))
	s.say("    dead letter %d: redriven", s.letter.ID)
	s.seeStatus(s.doomed.ID, "scheduled")
	// The handler answers the api before it is done itself.
	s.seeCount(s.doomed.ID, count{Deliveries: storyMaxDeliver + 1, Handled: 1})
	require.Empty(s.t, s.deadLetters(s.t))
}

func (s *story) killed() {
	before := s.list(s.t)
	require.NotEmpty(s.t, before)
	s.say("    before: %d todos; dapr-bolt, process %d: killed", len(before), s.API.Bolt.PID())
	s.API.Bolt.Kill()
	require.NoError(s.t, s.API.Bolt.Restart(s.t.Context()))
	var after []todo
	s.eventually(func(c *assert.CollectT) { after = s.list(c) })
	s.say("    after: %d todos; dapr-bolt is process %d", len(after), s.API.Bolt.PID())
	for _, t := range after {
		s.say("    todo %s: %q, %s", t.ID, t.Title, t.Status)
	}
	require.Equal(s.t, before, after)
}

// resubscribed goes through both apps' subscriptions: the scheduler must hear of the todo, and the api of its slot.
func (s *story) resubscribed() { s.createSoon("Survive a crash") }

// todo is what the api says of one.
type todo struct {
	ID        string    `json:"id"`
	Title     string    `json:"title"`
	Due       time.Time `json:"due"`
	Status    string    `json:"status"`
	Slot      *slot     `json:"slot"`
	Reason    string    `json:"reason"`
	DecidedBy string    `json:"decidedBy"`
	UpdatedAt time.Time `json:"updatedAt"`
}

type slot struct{ Start, End time.Time }

// createdEvent is the id of the event that tells of the todo's creation.
func createdEvent(todoID string) string { return taskCreatedTopic + "." + todoID }

// soon is a day that has free slots whatever the hour.
func soon() time.Time { return time.Now().UTC().AddDate(0, 0, 7).Truncate(time.Second) }

func (s *story) create(title string, due time.Time) (t todo) {
	s.t.Helper()
	response, err := s.API.Call(s.t.Context(), http.MethodPost, "/todos", map[string]string{"title": title, "due": due.Format(time.RFC3339)})
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusCreated, response.Status, "%s", response.Body)
	require.NoError(s.t, response.JSON(&t))
	s.say("    todo %s: created, %s, due %s", t.ID, t.Status, t.Due.Format(time.RFC3339))
	return t
}

// createSoon creates a todo and waits until it is scheduled.
func (s *story) createSoon(title string) todo {
	s.t.Helper()
	return s.seeStatus(s.create(title, soon()).ID, "scheduled")
}

// seeStatus waits until the todo has the status and returns it as it is then.
func (s *story) seeStatus(id, status string) (t todo) {
	s.t.Helper()
	s.eventually(func(c *assert.CollectT) {
		t = todo{}
		require.NoError(c, s.API.Get(s.t.Context(), "/todos/"+id, &t))
		require.Equal(c, status, t.Status, "%+v", t)
	})
	s.say("    todo %s: %s by event %s", t.ID, t.Status, t.DecidedBy)
	return t
}

func (s *story) list(t require.TestingT) []todo {
	var answer struct{ Todos []todo }
	require.NoError(t, s.API.Get(s.t.Context(), "/todos", &answer))
	return answer.Todos
}

// count is how often an event came to the scheduler and how often it was handled.
type count struct{ Deliveries, Handled int }

// seeCount waits until the scheduler's log has so much of the event of the todo's creation.
func (s *story) seeCount(todoID string, want count) {
	s.t.Helper()
	event := createdEvent(todoID)
	s.eventually(func(c *assert.CollectT) {
		log, err := os.ReadFile(s.Scheduler.LogPath())
		require.NoError(c, err)
		var got count
		for line := range strings.Lines(string(log)) {
			if !strings.Contains(line, " event="+event+" ") {
				continue
			}
			if strings.Contains(line, `msg="Event handled"`) {
				got.Deliveries++
				got.Handled++
			} else if strings.Contains(line, `msg="Event failed"`) {
				got.Deliveries++
			}
		}
		require.Equal(c, want, got)
	})
	s.say("    event %s: deliveries %d, handled %d", event, want.Deliveries, want.Handled)
}

// breakHandler makes the scheduler fail for titles with the word; "" mends it.
func (s *story) breakHandler(word string) {
	s.t.Helper()
	response, err := s.Scheduler.Call(s.t.Context(), http.MethodPut, "/faults", map[string]string{"failTitlesContaining": word})
	require.NoError(s.t, err)
	require.NoError(s.t, response.OK())
}

// deadLetters are those of the scheduler.
func (s *story) deadLetters(t require.TestingT) []admin.DeadLetter {
	letters, err := s.API.Bolt.DeadLetters(s.t.Context(), "--topic", taskCreatedTopic, "--group", harness.SchedulerAppID)
	require.NoError(t, err)
	return letters
}

func (s *story) eventually(check func(c *assert.CollectT)) {
	s.t.Helper()
	require.EventuallyWithT(s.t, check, patience, poll)
}
