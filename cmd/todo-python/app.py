"""A todo service: it books a slot for each todo, once, however often its events come."""

import json
import os

import uvicorn
from dapr.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation
from dapr.clients.grpc._state import Concurrency, StateOptions
from dapr.ext.fastapi import DaprApp
from fastapi import Body, FastAPI, HTTPException
from tenacity import retry, stop_after_attempt, wait_exponential

STORE, PUBSUB, TOPIC = "statestore", "pubsub", "todos"
app = FastAPI()
events = DaprApp(app)


@retry(stop=stop_after_attempt(5), wait=wait_exponential(multiplier=0.2, max=5))
def publish(client: DaprClient, event_id: str, todo: dict) -> None:
    """However often this is tried, the event is stored once: it is known by its eventID. The CloudEvent has the same id, by
    which the handler counts it once, even if it is tried again after the dedupWindow and so stored again."""
    client.publish_event(PUBSUB, TOPIC, json.dumps(todo), data_content_type="application/json",
                         publish_metadata={"eventID": event_id, "cloudevent.id": event_id})


@app.get("/healthz")
def healthz() -> dict:
    return {}


@app.put("/todos/{todo_id}")
def create(todo_id: str, todo: dict = Body()) -> dict:
    todo["id"] = todo_id
    with DaprClient() as client:
        # An empty ETag with first-write: the todo must not be there yet. A second try overwrites nothing.
        if not client.get_state(STORE, todo_id).data:
            client.save_state(STORE, todo_id, json.dumps(todo), options=StateOptions(concurrency=Concurrency.first_write))
        publish(client, f"created-{todo_id}", todo)
    return todo


@app.post("/todos/{todo_id}/done")
def done(todo_id: str) -> dict:
    with DaprClient() as client:
        state = client.get_state(STORE, todo_id)
        if not state.data:
            raise HTTPException(404, f"there is no todo {todo_id}")
        todo = json.loads(state.data) | {"done": True}
        client.save_state(STORE, todo_id, json.dumps(todo), etag=state.etag)  # fails if somebody was quicker
    return todo


@app.get("/slots/{day}")
def slots(day: str) -> dict:
    with DaprClient() as client:
        return {"booked": int(client.get_state(STORE, f"slots-{day}").data or 0)}


@events.subscribe(pubsub=PUBSUB, topic=TOPIC, route="/book")
def book(event: dict = Body()) -> None:
    todo = event["data"]
    if not todo.get("day"):
        # The text is what `dapr-bolt dead-letters list` shows.
        raise HTTPException(500, f"todo {todo['id']} has no day")
    key = f"slots-{todo['day']}"
    with DaprClient() as client:
        count = client.get_state(STORE, key)
        # One step: the count, and that this event was counted. When the event comes again, nothing changes. The ETag
        # makes the call fail, and the event come again, if another event was counted meanwhile.
        client.execute_state_transaction(
            STORE,
            [TransactionalStateOperation(key=key, data=str(int(count.data or 0) + 1), etag=count.etag or None)],
            transactional_metadata={"idempotencyKey": event["id"]},
        )


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("APP_PORT", "8000")), log_level="warning")
