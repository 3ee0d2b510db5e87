// Package linearizable tests that the store behaves as if every call took effect at one instant between its start and its
// return, whatever is killed: clients over the socket write down what they asked for and what they were told, and porcupine
// looks for an order of the calls that explains it.
package linearizable
