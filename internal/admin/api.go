// Package admin lets people look into a running process and mend things. A Service is what they ask, and each Call one thing
// that they can ask of it: the console's pages do, and the admin socket does for the command line, with a POST of a JSON object
// for each. Beside it stand health and metrics over HTTP, and the Client of the admin socket.
//
// An answer reads a bounded number of records, whatever a topic or a bucket holds: lists come in pages, each of which says
// where the next one begins, and numbers are kept and not counted. A page may be short, or empty, where a filter has passed
// over much; then there is a next one.
package admin

import (
	"cmp"
	"fmt"
	"reflect"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// SocketName is the admin socket's name in the data directory.
const SocketName = "admin.sock"

// Bounds of one call.
const (
	// MaxPageSize is the most that one page of a list holds.
	MaxPageSize = 1000
	// DefaultPageSize is the page of a list that names no limit.
	DefaultPageSize = 100
	// MaxIDs is the most dead letters that one redrive or purge takes.
	MaxIDs = 1000
	// maxPageBytes ends a page that carries payloads once they take this much.
	maxPageBytes = 4 << 20
	// maxBody bounds a request's body: the largest payload there is, in base64, and what stands beside it.
	maxBody = 6 << 20
)

// Bucket names the bucket that a call is about.
type Bucket struct {
	// Database default: databases.DefaultDatabase.
	Database string `json:"database,omitempty"`
	// Name default: databases.DefaultPubSubBucket, of state databases.DefaultStateBucket.
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

// WithDefaults returns the bucket of events with its defaults filled in.
func (b Bucket) WithDefaults() Bucket { return b.or(databases.DefaultPubSubBucket) }

// StateDefaults is WithDefaults for a bucket of state.
func (b Bucket) StateDefaults() Bucket { return b.or(databases.DefaultStateBucket) }

// bucket is that of the request that it is part of.
func (b *Bucket) bucket() *Bucket { return b }

func (b Bucket) or(name string) Bucket {
	return Bucket{cmp.Or(b.Database, databases.DefaultDatabase), cmp.Or(b.Name, name)}
}

// Info describes a running process.
type Info struct {
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	DataDir string    `json:"dataDir"`
	Socket  string    `json:"socket,omitempty"`
	HTTP    string    `json:"http,omitempty"`
	// Console is where the console is, and ConsoleTokenFile the file with the token that lets people in; empty: there is none.
	Console          string `json:"console,omitempty"`
	ConsoleTokenFile string `json:"consoleTokenFile,omitempty"`

	Databases []databases.Database `json:"databases"`
}

// Buckets are those of a data directory.
type Buckets struct {
	// Buckets hold events, State holds state.
	Buckets []Bucket `json:"buckets"`
	State   []Bucket `json:"state"`
	// Missing says which are not in the lists, and why; empty: none.
	Missing string `json:"missing,omitempty"`
}

// BackupRequest names a database and where its copy goes.
type BackupRequest struct {
	// Database default: databases.DefaultDatabase.
	Database string `json:"database,omitempty"`
	// Path is absolute, and nothing is there yet.
	Path string `json:"path"`
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

// ByteSize is a number of bytes, of any type, for people: in the largest unit that leaves a number before the point.
func ByteSize(n any) string {
	size, unit := reflect.ValueOf(n).Convert(reflect.TypeFor[float64]()).Float(), 0
	for ; size >= 1024 && unit < 4; unit++ {
		size /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGT"[unit-1])
}
