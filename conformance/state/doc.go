// Package state tests, through the real sidecar, what apps and Dapr's own building blocks ask of a state store that is
// meant for more than caching: effects exactly once, transactions and answers at size, the outbox, actors, workflows, and
// what an app sees when it is refused.
package state
