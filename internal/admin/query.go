package admin

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// The names of the queries' parameters.
const (
	paramDatabase = "database"
	paramBucket   = "bucket"
	paramTopic    = "topic"
	paramGroup    = "group"
	paramSince    = "since"
	paramText     = "text"
	paramAfter    = "after"
	paramLimit    = "limit"
	paramData     = "data"
)

func checkParams(query url.Values, allowed ...string) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(allowed, name) {
			return badRequest("unknown parameter %q: allowed: %s", name, strings.Join(allowed, ", "))
		}
	}
	return nil
}

func parseScope(query url.Values) (Scope, error) {
	if err := checkParams(query, paramDatabase, paramBucket); err != nil {
		return Scope{}, err
	}
	return Scope{Database: query.Get(paramDatabase), Bucket: query.Get(paramBucket)}, nil
}

func parseList(query url.Values) (ListOptions, error) {
	err := checkParams(query, paramDatabase, paramBucket, paramTopic, paramGroup, paramSince, paramText, paramAfter, paramLimit, paramData)
	if err != nil {
		return ListOptions{}, err
	}
	opts := ListOptions{
		Scope: Scope{Database: query.Get(paramDatabase), Bucket: query.Get(paramBucket)},
		Topic: query.Get(paramTopic),
		Group: query.Get(paramGroup),
		Text:  query.Get(paramText),
		Limit: pubsub.DefaultPageSize,
	}
	if v := query.Get(paramSince); v != "" {
		if opts.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return opts, badRequest("%s %q: allowed: an RFC 3339 time", paramSince, v)
		}
	}
	if v := query.Get(paramAfter); v != "" {
		if opts.After, err = strconv.ParseUint(v, 10, 64); err != nil {
			return opts, badRequest("%s %q: allowed: a whole number", paramAfter, v)
		}
	}
	if v := query.Get(paramLimit); v != "" {
		if opts.Limit, err = strconv.Atoi(v); err != nil || opts.Limit < 1 || opts.Limit > MaxPageSize {
			return opts, badRequest("%s %q: allowed: 1 to %d", paramLimit, v, MaxPageSize)
		}
	}
	if v := query.Get(paramData); v != "" {
		if opts.Data, err = strconv.ParseBool(v); err != nil {
			return opts, badRequest("%s %q: allowed: true, false", paramData, v)
		}
	}
	return opts, nil
}

func (s Scope) query() url.Values {
	query := url.Values{}
	set(query, paramDatabase, s.Database)
	set(query, paramBucket, s.Bucket)
	return query
}

func (o ListOptions) query() url.Values {
	query := o.Scope.query()
	set(query, paramTopic, o.Topic)
	set(query, paramGroup, o.Group)
	set(query, paramText, o.Text)
	if !o.Since.IsZero() {
		query.Set(paramSince, o.Since.Format(time.RFC3339Nano))
	}
	if o.After > 0 {
		query.Set(paramAfter, strconv.FormatUint(o.After, 10))
	}
	if o.Limit != 0 {
		query.Set(paramLimit, strconv.Itoa(o.Limit))
	}
	if o.Data {
		query.Set(paramData, "true")
	}
	return query
}

func set(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}
