// Package cluster tests dapr-bolt on etcd and NATS JetStream: real servers, three of each. What becomes of it when they fail,
// package crash finds out.
package cluster
