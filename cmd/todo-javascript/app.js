// A todo service: it books a slot for each todo, once, however often its events come.
import { setTimeout as sleep } from "node:timers/promises";
import { DaprClient, LogLevel, StateConcurrencyEnum } from "@dapr/dapr";
import express from "express";

const [store, pubsub, topic] = ["statestore", "pubsub", "todos"];
const client = new DaprClient({ logger: { level: LogLevel.Error } });
const app = express().use(express.json({ type: ["application/json", "application/cloudevents+json"] }));

// save and publish of the SDK do not throw: an error that is not looked at is lost.
const orThrow = ({ error }) => { if (error) throw error; };

// get of the SDK leaves out the ETag; getBulk does not.
const get = async (key) => (await client.state.getBulk(store, [key]))[0];

// However often this is tried, the event is stored once: it is known by its eventID. The CloudEvent has the same id, by which
// the handler counts it once, even if it is tried again after the dedupWindow and so stored again.
async function publish(eventID, todo) {
  for (let attempt = 1; ; attempt++) {
    const { error } = await client.pubsub.publish(pubsub, topic, todo, { metadata: { eventID, "cloudevent.id": eventID } });
    if (!error) return;
    if (attempt === 5) throw error;
    await sleep(100 * 2 ** attempt);
  }
}

// An answer of 500 fails an event, and its text is what `dapr-bolt dead-letters list` shows.
const answering = (handler) => async (req, res) => {
  try {
    res.json((await handler(req)) ?? {});
  } catch (error) {
    res.status(error.status ?? 500).send(error.message);
  }
};

app.get("/healthz", (_, res) => res.json({}));

app.put("/todos/:id", answering(async (req) => {
  const todo = { ...req.body, id: req.params.id };
  // First-write without an ETag: the todo must not be there yet. A second try overwrites nothing.
  if (!(await get(todo.id)).data) {
    orThrow(await client.state.save(store, [{ key: todo.id, value: todo, options: { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE } }]));
  }
  await publish(`created-${todo.id}`, todo);
  return todo;
}));

app.post("/todos/:id/done", answering(async (req) => {
  const { data, etag } = await get(req.params.id);
  if (!data) throw Object.assign(new Error(`there is no todo ${req.params.id}`), { status: 404 });
  const todo = { ...data, done: true };
  orThrow(await client.state.save(store, [{ key: todo.id, value: todo, etag }])); // fails if somebody was quicker
  return todo;
}));

app.get("/slots/:day", answering(async (req) => ({ booked: (await get(`slots-${req.params.day}`)).data ?? 0 })));

app.get("/dapr/subscribe", (_, res) => res.json([{ pubsubname: pubsub, topic, route: "/book" }]));

app.post("/book", answering(async (req) => {
  const { id, data: todo } = req.body;
  if (!todo.day) throw new Error(`todo ${todo.id} has no day`);
  const key = `slots-${todo.day}`;
  const { data: count = 0, etag } = await get(key);
  // One step: the count, and that this event was counted. When the event comes again, nothing changes. The ETag makes the
  // call fail, and the event come again, if another event was counted meanwhile.
  const request = { key, value: count + 1, etag, options: { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE } };
  await client.state.transaction(store, [{ operation: "upsert", request }], { idempotencyKey: id });
}));

app.listen(Number(process.env.APP_PORT ?? 8000), "127.0.0.1");
