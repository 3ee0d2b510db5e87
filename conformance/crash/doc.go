// Package crash kills dapr-bolt, and cuts the power of its disk, again and again in the middle of work, and finds out whether
// any promise was broken.
//
// [Run] lets clients write, publish and consume, and the ledgers of keys and events judge what they were told and what is
// found afterwards. A disk of the tests' own, mounted with FUSE, keeps writes volatile until they are synced, and can fail.
// Beside it, porcupine looks for an order of calls that explains every answer, also of several processes on etcd; and a
// ledger of events judges several processes on NATS. There, servers and sidecars fail as well.
package crash
