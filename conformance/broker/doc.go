// Package broker tests, through real processes only, that dapr-bolt's pub/sub goes as deep as a broker's: order, time,
// limits, wildcards, sharing, and dead letters with a life cycle.
package broker
