package console

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// link is a path with a query: names of parameters and their values take turns, and zero values are left out. A
// bucket stands for its own two parameters; the default bucket of events goes without saying, but on pages of state.
func link(path string, parameters ...any) string {
	query := url.Values{}
	for i := 0; i < len(parameters); i++ {
		if b, ok := parameters[i].(admin.Bucket); ok {
			if strings.HasPrefix(path, "/state") || b != (admin.Bucket{}).WithDefaults() {
				query.Set("database", b.Database)
				query.Set("bucket", b.Name)
			}
			continue
		}
		name := fmt.Sprint(parameters[i])
		i++
		if value := parameters[i]; !reflect.ValueOf(value).IsZero() {
			query.Set(name, fmt.Sprint(value))
		}
	}
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// bucketOf reads which bucket of events a request is about. Empty parameters are the default's.
func bucketOf(values url.Values) admin.Bucket {
	return admin.Bucket{Database: values.Get("database"), Name: values.Get("bucket")}.WithDefaults()
}

// stateBucketOf is bucketOf for a bucket of state.
func stateBucketOf(values url.Values) admin.Bucket {
	return admin.Bucket{Database: values.Get("database"), Name: values.Get("bucket")}.StateDefaults()
}

// idOf reads a number above zero.
func idOf(values url.Values, field string) (uint64, error) {
	text := values.Get(field)
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, invalid.New(field, text, "a whole number of 1 or more")
	}
	return id, nil
}
