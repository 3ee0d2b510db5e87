// Package cluster tests dapr-bolt on etcd and NATS JetStream: real servers, three of each, that are killed and paused.
package cluster
