package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// The statuses that a todo ends in.
const (
	scheduled = "scheduled"
	rejected  = "rejected"
)

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

type slot struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// taskCreated is the content of an event on the topic of that name.
type taskCreated struct {
	TodoID string    `json:"todoId"`
	Title  string    `json:"title"`
	Due    time.Time `json:"due"`
}

const taskCreatedTopic = "task-created"

// createdEvent is the id of the event that tells of the todo's creation.
func createdEvent(todoID string) string { return taskCreatedTopic + "." + todoID }

func (s *Story) create(ctx context.Context, title string, due time.Time) (todo, error) {
	response, err := s.Todo.API.Call(ctx, http.MethodPost, "/todos", map[string]string{
		"title": title, "due": due.Format(time.RFC3339),
	})
	if err != nil {
		return todo{}, err
	}
	if response.Status != http.StatusCreated {
		return todo{}, mismatch("status 201 for a new todo", response.OK())
	}
	var t todo
	return t, response.JSON(&t)
}

// seeStatus waits until the todo has the status and returns it as it is then.
func (s *Story) seeStatus(ctx context.Context, id, status string) (todo, error) {
	var t todo
	err := see(ctx, fmt.Sprintf("todo %s to be %s", id, status), func(ctx context.Context) (string, bool, error) {
		t = todo{}
		err := s.Todo.API.Get(ctx, "/todos/"+id, &t)
		return fmt.Sprintf("status %q, reason %q", t.Status, t.Reason), t.Status == status, err
	})
	return t, err
}

func (s *Story) list(ctx context.Context) ([]todo, error) {
	var answer struct {
		Todos []todo `json:"todos"`
	}
	err := s.Todo.API.Get(ctx, "/todos", &answer)
	return answer.Todos, err
}

// count is how often an event came to the scheduler and how often it was handled.
type count struct {
	Deliveries, Handled int
}

// count counts the lines that the scheduler logged of an event.
func (s *Story) count(eventID string) (c count, err error) {
	log, err := os.ReadFile(s.Todo.Scheduler.LogPath())
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, " event="+eventID+" ") {
			continue
		}
		if strings.Contains(line, `msg="Event handled"`) {
			c.Deliveries++
			c.Handled++
		} else if strings.Contains(line, `msg="Event failed"`) {
			c.Deliveries++
		}
	}
	return c, err
}

// bookings counts the slots that the todo has on its day.
func (s *Story) bookings(ctx context.Context, todoID string, day time.Time) (int, error) {
	var answer struct {
		Slots []string `json:"slots"`
	}
	err := s.Todo.Scheduler.Get(ctx, "/days/"+day.UTC().Format(time.DateOnly), &answer)
	n := 0
	for _, holder := range answer.Slots {
		if holder == todoID {
			n++
		}
	}
	return n, err
}

// breakHandler makes the scheduler fail for titles with the word; "" mends it.
func (s *Story) breakHandler(ctx context.Context, word string) error {
	response, err := s.Todo.Scheduler.Call(ctx, http.MethodPut, "/faults", map[string]string{"failTitlesContaining": word})
	if err != nil {
		return err
	}
	return response.OK()
}

// deadLetters are those of the scheduler.
func (s *Story) deadLetters(ctx context.Context) ([]admin.DeadLetter, error) {
	return s.Todo.Bolt.DeadLetters(ctx, "--topic", taskCreatedTopic, "--group", s.Todo.SchedulerSidecar.AppID)
}
