// Package natsbroker is the pubsub.Service on NATS JetStream, for many processes on many nodes.
//
// One stream holds all of a bucket: events, keys that deduplicate them, retries, dead letters, and who consumes what; see
// layout.go. What must happen together is one atomic batch. A consumer group's share of a topic is a durable consumer
// there, which hands each event to one process at a time, and that is all that the processes have in common: no process
// knows of the others.
//
// Events with a partition key go to one of Partitions partitions by its hash. Each is a consumer that hands out one event at
// a time, so that no event overtakes another of its key, even while that one waits for a retry. An ordered group has one
// such consumer for all of the topic.
//
// The servers must sync before they acknowledge (sync_interval: always), which a client cannot see. An event that a process
// had in flight when it crashed is delivered again once serverAckWait has passed.
package natsbroker
