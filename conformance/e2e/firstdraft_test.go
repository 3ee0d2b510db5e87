package e2e_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/cause"
)

// firstDraft is a service as people write it before they know Dapr: it answers in lower case, it knows an event by a hash of
// its content, and it publishes again when it is not sure.
const firstDraft = `
import hashlib, json, os
import uvicorn
from dapr.clients import DaprClient
from dapr.ext.fastapi import DaprApp
from fastapi import Body, FastAPI

app = FastAPI()
events = DaprApp(app)

@app.get("/healthz")
def healthz():
    return {"status": "ok"}

@app.post("/orders")
def order(body: dict = Body()):
    data = json.dumps(body, sort_keys=True)
    event_id = hashlib.sha256(data.encode()).hexdigest()
    with DaprClient() as client:
        for _ in range(3):
            client.publish_event("pubsub", "orders", data, data_content_type="application/json", publish_metadata={"eventID": event_id})
    return {"status": "success", "id": event_id}

@events.subscribe(pubsub="pubsub", topic="orders")
def handle(event: dict = Body()):
    with DaprClient() as client:
        client.save_state("statestore", event["data"]["number"], json.dumps(event["data"]))
    return {"status": "success"}

uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
`

// Whatever a first draft does wrong, nothing is lost without a word: a wrong answer is named by the dead letter, and an event
// that is taken for another one's duplicate is counted.
func TestAFirstDraftLosesNothingSilently(t *testing.T) {
	t.Parallel()
	q := newEnv(t).quickstart(pythonInterpreter(t), []string{"-c", firstDraft}, "maxDeliver", "2", "backOff", "100ms")
	order := func() (answer struct{ ID string }) {
		t.Helper()
		r, err := q.app.Call(t.Context(), http.MethodPost, "/orders", map[string]string{"number": "7"})
		require.NoError(t, err)
		require.NoError(t, r.OK())
		require.NoError(t, r.JSON(&answer))
		return answer
	}
	id := order().ID
	letter := q.dead(1)[0]
	require.Equal(t, id, letter.Event.ID)
	require.Equal(t, "unknown status success: Dapr knows SUCCESS, RETRY and DROP", cause.Of(letter.LastError))
	// The handler has done its work all the same.
	r := q.call(q.sidecar, http.MethodGet, "/v1.0/state/statestore/7", nil)
	require.JSONEq(t, `{"number":"7"}`, string(r.Body))

	// The customer means it: the same order once more. Its hash is the first one's.
	order()
	q.eventually(func(c *assert.CollectT) { require.Equal(c, uint64(5), q.topic("orders").Duplicates) })
	require.Len(t, q.deadLetters("--all"), 1)
}
