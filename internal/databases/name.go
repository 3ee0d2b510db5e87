package databases

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// What a component, a command or a query works on when it names nothing else.
const (
	DefaultDatabase     = servers.DefaultDatabase
	DefaultStateBucket  = servers.DefaultStateBucket
	DefaultPubSubBucket = servers.DefaultPubSubBucket
)

// fileSuffix ends the name of every database file.
const fileSuffix = ".db"

const maxNameLen = 64

var validName = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9_-]{1,%d}$`, maxNameLen))

// NameError refuses the name of a database or a bucket.
type NameError struct {
	Field, Value string
}

func (e *NameError) Error() string {
	value := fmt.Sprintf("%q", e.Value)
	if len(e.Value) > maxNameLen {
		value = fmt.Sprintf("%q… (%d bytes)", e.Value[:maxNameLen], len(e.Value))
	}
	return fmt.Sprintf("invalid %s %s: allowed: 1 to %d letters, digits, - and _", e.Field, value, maxNameLen)
}

// Unwrap returns statestore.ErrInvalidArgument: the name will not do, whatever is stored.
func (e *NameError) Unwrap() error { return statestore.ErrInvalidArgument }

// CheckName returns a NameError unless value can name a database or a bucket. field is what the value is called where
// it came from.
func CheckName(field, value string) error {
	if !validName.MatchString(value) {
		return &NameError{Field: field, Value: value}
	}
	return nil
}

// FilePath returns where the database of that name lies in the data directory dir.
func FilePath(dir, database string) string { return filepath.Join(dir, database+fileSuffix) }

// namespace names a bucket of a database.
type namespace struct{ database, bucket string }

func (n namespace) check() error {
	if err := CheckName("database", n.database); err != nil {
		return err
	}
	return CheckName("bucket", n.bucket)
}
