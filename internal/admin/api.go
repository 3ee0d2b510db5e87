// Package admin lets people look into a running process and mend things: dead letters, topics, and backups over a Unix
// socket, health and metrics over HTTP, and the client that the command line uses.
package admin

import (
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// SocketName is the admin socket's name in the data directory.
const SocketName = "admin.sock"

// Bounds of one call.
const (
	// MaxPageSize is the most dead letters that one page of a list holds.
	MaxPageSize = 1000
	// MaxIDs is the most dead letters that one redrive or purge takes.
	MaxIDs = 1000
	// maxPageBytes ends a page that carries payloads once they take this much.
	maxPageBytes = 4 << 20
	// readStep is how many dead letters are in memory at once while a page is put together.
	readStep = 16
	// maxBody bounds a request's body.
	maxBody = 1 << 20
)

// The calls of the admin socket: each is a POST of a JSON object, perhaps an empty one, and is answered with one.
const (
	pathInfo        = "/v1/info"
	pathReady       = "/v1/ready"
	pathList        = "/v1/dead-letters/list"
	pathShow        = "/v1/dead-letters/show"
	pathRedrive     = "/v1/dead-letters/redrive"
	pathPurge       = "/v1/dead-letters/purge"
	pathBuckets     = "/v1/buckets"
	pathTopics      = "/v1/topics"
	pathRemoveGroup = "/v1/topics/remove-group"
	pathBackup      = "/v1/backup"
)

// Bucket names the pub/sub bucket that a call is about.
type Bucket struct {
	// Database default: databases.DefaultDatabase.
	Database string `json:"database,omitempty"`
	// Name default: databases.DefaultPubSubBucket.
	Name string `json:"bucket,omitempty"`
}

// String names the bucket, with its database unless that is the default.
func (b Bucket) String() string {
	b = b.WithDefaults()
	if b.Database == databases.DefaultDatabase {
		return b.Name
	}
	return b.Database + "/" + b.Name
}

// WithDefaults returns the bucket with its defaults filled in.
func (b Bucket) WithDefaults() Bucket {
	if b.Database == "" {
		b.Database = databases.DefaultDatabase
	}
	if b.Name == "" {
		b.Name = databases.DefaultPubSubBucket
	}
	return b
}

// Info describes a running process.
type Info struct {
	PID       int                  `json:"pid"`
	Version   string               `json:"version"`
	Started   time.Time            `json:"started"`
	DataDir   string               `json:"dataDir"`
	Socket    string               `json:"socket,omitempty"`
	HTTP      string               `json:"http,omitempty"`
	Databases []databases.Database `json:"databases"`
}

// DeadLetterPage is one page of a list.
type DeadLetterPage struct {
	DeadLetters []DeadLetter `json:"deadLetters"`
	// Next is what to continue after; zero: this was the last page.
	Next uint64 `json:"next,omitempty"`
}

// ListOptions select dead letters; the zero value selects the first page of all, without payloads.
type ListOptions struct {
	Bucket
	Topic string `json:"topic,omitempty"`
	Group string `json:"group,omitempty"`
	// Since selects those that died at or after it.
	Since time.Time `json:"since,omitzero"`
	// Text selects those whose payload, event id or any error holds it, case-insensitively.
	Text string `json:"text,omitempty"`
	// After is the id to continue after.
	After uint64 `json:"after,omitempty"`
	// Limit bounds the page, at most MaxPageSize. Default: pubsub.DefaultPageSize. A page with payloads may be shorter.
	Limit int `json:"limit,omitempty"`
	// Data asks for the payloads.
	Data bool `json:"data,omitempty"`
}

// idRequest names a dead letter.
type idRequest struct {
	Bucket
	ID uint64 `json:"id"`
}

// idsRequest names dead letters.
type idsRequest struct {
	Bucket
	IDs []uint64 `json:"ids"`
}

// RedriveResult says what went back to its group.
type RedriveResult struct {
	Redriven []uint64 `json:"redriven"`
	// Unreadable were left where they are: what is stored of them cannot be decoded.
	Unreadable []uint64 `json:"unreadable,omitempty"`
}

// PurgeResult says how many dead letters are gone.
type PurgeResult struct {
	Purged int `json:"purged"`
}

// Buckets are the pub/sub buckets of a data directory.
type Buckets struct {
	Buckets []Bucket `json:"buckets"`
	// Missing says which are not in the list, and why; empty: none.
	Missing string `json:"missing,omitempty"`
}

// Topics is what a bucket holds, or all of them.
type Topics struct {
	Topics []TopicStats `json:"topics"`
	// Missing says which buckets are left out, and why; empty: none.
	Missing string `json:"missing,omitempty"`
}

// TopicStats counts what a topic holds, and says where it is.
type TopicStats struct {
	Bucket
	pubsub.TopicStats
}

type removeGroupRequest struct {
	Bucket
	Topic string `json:"topic"`
	Group string `json:"group"`
}

type backupRequest struct {
	Database string `json:"database,omitempty"`
	Path     string `json:"path"`
}

// BackupResult describes the copy.
type BackupResult struct {
	Database string `json:"database"`
	Path     string `json:"path"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// errorBody is every answer that is not a success.
type errorBody struct {
	Error string `json:"error"`
}
