package component

import (
	"fmt"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Keys of a request's metadata to the state store.
const (
	keyTTLInSeconds   = "ttlInSeconds"
	keyContentType    = "contentType"
	keyIdempotencyKey = "idempotencyKey"
)

// nameAllowed is what a Backend takes as a name; the Backend is the one that checks it.
const nameAllowed = "letters, digits, - and _"

type stateConfig struct {
	Database, Bucket  string
	CleanupInterval   time.Duration
	IdempotencyWindow time.Duration
	QueryIndexes      []string
}

// StateMetadata lists the metadata keys of the state store.
func StateMetadata(d Defaults) []Field { return fieldsOf(stateFields(d)) }

func stateFields(d Defaults) []field[stateConfig] {
	return []field[stateConfig]{
		{
			Field{"database", d.Database, nameAllowed, "the file `<data-dir>/<database>.db`"},
			func(c *stateConfig, v string) bool { c.Database = v; return true },
		},
		{
			Field{"bucket", d.StateBucket, nameAllowed, "the bucket in that file: components with the same database and bucket share their data"},
			func(c *stateConfig, v string) bool { c.Bucket = v; return true },
		},
		{
			Field{
				"cleanupInterval", shortDuration(statestore.DefaultCleanupInterval),
				fmt.Sprintf("a duration of at least %s", statestore.MinCleanupInterval),
				"how often expired keys are removed from the file; of several components on one bucket, the shortest holds",
			},
			func(c *stateConfig, v string) bool {
				d, ok := parseDuration(v)
				if ok = ok && d >= statestore.MinCleanupInterval; ok {
					c.CleanupInterval = d
				}
				return ok
			},
		},
		{
			Field{
				"idempotencyWindow", shortDuration(statestore.DefaultIdempotencyWindow),
				fmt.Sprintf("a duration above 0, up to %d seconds", statestore.MaxTTL/time.Second),
				"how long an `idempotencyKey` is remembered",
			},
			func(c *stateConfig, v string) bool {
				d, ok := parseDuration(v)
				if ok = ok && d > 0 && d <= statestore.MaxTTL; ok {
					c.IdempotencyWindow = d
				}
				return ok
			},
		},
		{
			Field{
				"queryIndexes", "",
				fmt.Sprintf("field paths such as `person.city`, with commas between them; at most %d on one bucket", statestore.MaxQueryIndexes),
				"fields on which queries use an index",
			},
			func(c *stateConfig, v string) bool {
				c.QueryIndexes = strings.Split(v, ",")
				for i, path := range c.QueryIndexes {
					c.QueryIndexes[i] = strings.TrimSpace(path)
					if _, err := statestore.ParseFieldPath(c.QueryIndexes[i]); err != nil {
						return false
					}
				}
				return len(c.QueryIndexes) <= statestore.MaxQueryIndexes
			},
		},
	}
}

func parseStateConfig(given map[string]string, d Defaults) (stateConfig, error) {
	p, err := parseProperties(given)
	if err != nil {
		return stateConfig{}, err
	}
	table := stateFields(d)
	c := defaults(table)
	return c, override(&c, table, p)
}
