package console

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

const (
	// keysShown is how many keys a page of the list has, and appsShown how many apps are named.
	keysShown = 100
	appsShown = 50
)

// statePage is what the page of a bucket of state shows.
type statePage struct {
	admin.Bucket
	Buckets []admin.Bucket
	Missing string
	Indexes []admin.Index
	Apps    []appLink
	// MoreApps says that there are further ones.
	MoreApps bool
	Prefix   string
	Keys     []keyRow
	// Next is where the list goes on; empty: nowhere.
	Next string
}

// appLink leads to the keys of an app.
type appLink struct{ App, Prefix, Link string }

type keyRow struct {
	admin.Key
	Link string
}

// stateBucketOf reads which bucket of state a request is about. Empty parameters are the default's.
func stateBucketOf(values url.Values) admin.Bucket {
	b := admin.Bucket{Database: values.Get("database"), Name: values.Get("bucket")}
	if b.Database == "" {
		b.Database = databases.DefaultDatabase
	}
	if b.Name == "" {
		b.Name = databases.DefaultStateBucket
	}
	return b
}

func stateQuery(b admin.Bucket) url.Values {
	return url.Values{"database": {b.Database}, "bucket": {b.Name}}
}

func keyLink(b admin.Bucket, key string) string {
	query := stateQuery(b)
	query.Set("key", key)
	return "/state/key?" + query.Encode()
}

func (c *Console) state(r *http.Request) (*page, error) {
	p := statePage{Bucket: stateBucketOf(r.Form), Prefix: r.Form.Get("prefix")}
	buckets, err := admin.CallBuckets.Do(r.Context(), c.opts.Service, admin.Empty{})
	if err != nil {
		return nil, err
	}
	p.Buckets, p.Missing = buckets.State, buckets.Missing
	info, err := admin.CallStateBucket.Do(r.Context(), c.opts.Service, p.Bucket)
	if err != nil {
		return nil, err
	}
	p.Indexes = info.Indexes
	apps, err := admin.CallApps.Do(r.Context(), c.opts.Service, admin.PageRequest{Bucket: p.Bucket, Limit: appsShown})
	if err != nil {
		return nil, err
	}
	p.MoreApps = apps.Next != ""
	for _, app := range apps.Apps {
		query := stateQuery(p.Bucket)
		query.Set("prefix", app+"||")
		p.Apps = append(p.Apps, appLink{app, app + "||", "/state?" + query.Encode()})
	}
	keys, err := admin.CallKeys.Do(r.Context(), c.opts.Service, admin.KeysRequest{
		PageRequest: admin.PageRequest{Bucket: p.Bucket, After: r.Form.Get("after"), Limit: keysShown}, Prefix: p.Prefix,
	})
	if err != nil {
		return nil, err
	}
	for _, k := range keys.Keys {
		p.Keys = append(p.Keys, keyRow{k, keyLink(p.Bucket, k.Key)})
	}
	if keys.Next != "" {
		query := stateQuery(p.Bucket)
		query.Set("prefix", p.Prefix)
		query.Set("after", keys.Next)
		p.Next = "/state?" + query.Encode()
	}
	return &page{Title: "State", Section: sectionState, template: "state.html", Data: p}, nil
}

// keyPage is what the page of a key shows.
type keyPage struct {
	admin.Bucket
	admin.Key
	Value *content
	// Text is the value where it can be edited; empty: it cannot.
	Text string
	// Editable says that the value is text, and short enough to be shown in whole.
	Editable bool
	// Stays is after how many seconds the key expires; 0: never.
	Stays int
}

func (c *Console) valueOf(r *http.Request) (admin.Bucket, admin.Value, []byte, error) {
	bucket := stateBucketOf(r.Form)
	value, err := admin.CallValue.Do(r.Context(), c.opts.Service, admin.KeyRequest{Bucket: bucket, Key: r.Form.Get("key")})
	if err != nil {
		return bucket, value, nil, err
	}
	data, err := value.Payload()
	return bucket, value, data, err
}

func (c *Console) key(r *http.Request) (*page, error) {
	bucket, value, data, err := c.valueOf(r)
	if err != nil {
		return nil, err
	}
	p := keyPage{Bucket: bucket, Key: value.Key}
	if value.Expires != nil {
		p.Stays = max(1, int(value.Expires.Sub(c.opts.Clock.Now()).Seconds()))
	}
	if !c.opts.HideValues {
		query := stateQuery(bucket)
		query.Set("key", value.Key.Key)
		p.Value = newContent(r, data, "/state/key/value?"+query.Encode())
		if p.Editable = value.DataEncoding != admin.DataBase64 && len(data) <= maxText; p.Editable {
			p.Text = string(data)
		}
	}
	return &page{Title: "Key " + value.Key.Key, Section: sectionState, template: "key.html", Data: p}, nil
}

// keyValue answers with the value, byte for byte but for white space of JSON.
func (c *Console) keyValue(w http.ResponseWriter, r *http.Request) {
	c.save(w, r, func() (string, []byte, error) {
		_, _, data, err := c.valueOf(r)
		return "value", data, err
	})
}

// conflict says what to do where somebody else was faster, or the key that is to be new is not.
func conflict(err error, etag string) error {
	var mismatch *statestore.ETagMismatchError
	switch {
	case !errors.As(err, &mismatch):
		return err
	case etag == "":
		return &conflictError{"The key exists already: nothing was done. Look at it, and change it there.", err}
	}
	return &conflictError{"Somebody else has changed the key meanwhile: nothing was done. Look at it again before you do.", err}
}

// conflictError is about a key that is not in the version that a form named.
type conflictError struct {
	text string
	err  error
}

func (e *conflictError) Error() string { return e.text + " (" + e.err.Error() + ")" }
func (e *conflictError) Unwrap() error { return e.err }

// setKey sets the value of a key in the version that the page showed, or of a new one.
func (c *Console) setKey(r *http.Request) (next, error) {
	bucket, key, etag := stateBucketOf(r.PostForm), r.PostForm.Get("key"), r.PostForm.Get("etag")
	ttl := 0
	if text := r.PostForm.Get("ttl"); text != "" {
		var err error
		if ttl, err = strconv.Atoi(text); err != nil {
			return next{}, &fieldError{"ttl", text, "a whole number of seconds, or nothing"}
		}
	}
	// Browsers send line breaks as CR LF.
	text := strings.ReplaceAll(r.PostForm.Get("value"), "\r\n", "\n")
	_, err := admin.CallSetValue.Do(r.Context(), c.opts.Service, admin.SetRequest{
		Bucket: bucket, Key: key, Content: admin.ExactContent([]byte(text)), ContentType: r.PostForm.Get("contentType"), ETag: etag, TTLInSeconds: ttl,
	})
	if err != nil {
		return next{}, conflict(err, etag)
	}
	query := stateQuery(bucket)
	query.Set("key", key)
	return after("/state/key", query, "set"), nil
}

// deleteKey deletes a key in the version that the page showed. It asks first; what is to be typed is no key, as those can be
// long, or hold what no keyboard has.
func (c *Console) deleteKey(r *http.Request) (next, error) {
	bucket, key, etag := stateBucketOf(r.PostForm), r.PostForm.Get("key"), r.PostForm.Get("etag")
	ask := removal{
		Title: "Delete a key", Section: sectionState, Name: key, Words: "delete", Verb: "Delete", Back: keyLink(bucket, key),
		Lost:   "Its value is gone for good. If somebody changes the key before, nothing is done.",
		Fields: append(bucketFields(bucket), field{"key", key}, field{"etag", etag}),
	}
	if asked, ok := ask.confirmed(r); !ok {
		return next{page: asked}, nil
	}
	_, err := admin.CallDeleteValue.Do(r.Context(), c.opts.Service, admin.DeleteRequest{Bucket: bucket, Key: key, ETag: etag})
	if err != nil {
		return next{}, conflict(err, etag)
	}
	return after("/state", stateQuery(bucket), "deleted"), nil
}
