package console

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// fieldError refuses what a form or a link says.
type fieldError struct{ field, value, allowed string }

func (e *fieldError) Error() string {
	return fmt.Sprintf("%s %q: allowed: %s", e.field, short(e.value), e.allowed)
}

// link is a path with a query: names of parameters and their values take turns, and those without a value are left out.
func link(path string, parameters ...any) (string, error) {
	if len(parameters)%2 != 0 {
		return "", fmt.Errorf("link to %s: a parameter has no value", path)
	}
	query := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		if value := fmt.Sprint(parameters[i+1]); value != "" && value != "0" {
			query.Set(fmt.Sprint(parameters[i]), value)
		}
	}
	if len(query) == 0 {
		return path, nil
	}
	return path + "?" + query.Encode(), nil
}

// bucketOf reads which bucket of events a request is about. Empty parameters are the default's.
func bucketOf(values url.Values) admin.Bucket {
	return admin.Bucket{Database: values.Get("database"), Name: values.Get("bucket")}.WithDefaults()
}

// idOf reads a number above zero.
func idOf(values url.Values, field string) (uint64, error) {
	text := values.Get(field)
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, &fieldError{field, text, "a whole number of 1 or more"}
	}
	return id, nil
}

// of is the query that names a bucket.
func of(bucket admin.Bucket) url.Values {
	values := url.Values{}
	if bucket.Database != databases.DefaultDatabase {
		values.Set("database", bucket.Database)
	}
	if bucket.Name != databases.DefaultPubSubBucket {
		values.Set("bucket", bucket.Name)
	}
	return values
}

// idQuery is the query that names a thing by its number.
func idQuery(id uint64) url.Values { return url.Values{"id": {strconv.FormatUint(id, 10)}} }

// notFoundError says that something is not there.
type notFoundError struct{ what string }

func (e *notFoundError) Error() string { return e.what }

func notFound(format string, args ...any) error { return &notFoundError{fmt.Sprintf(format, args...)} }
