package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// keysShown is how many keys a page of the list has.
const keysShown = 100

// statePage is what the page of a bucket of state shows.
type statePage struct {
	admin.Bucket
	Buckets []admin.Bucket
	Missing string
	Indexes []admin.Index
	Prefix  string
	Keys    []keyRow
	// Next is where the list goes on; empty: nowhere.
	Next string
}

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
	buckets, err := c.opts.Service.Buckets(r.Context())
	if err != nil {
		return nil, err
	}
	p.Buckets, p.Missing = buckets.State, buckets.Missing
	info, err := c.opts.Service.StateBucket(r.Context(), p.Bucket)
	if err != nil {
		return nil, err
	}
	p.Indexes = info.Indexes
	keys, err := c.opts.Service.Keys(r.Context(), admin.KeysRequest{
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
}

func (c *Console) valueOf(r *http.Request) (admin.Bucket, admin.Value, []byte, error) {
	bucket := stateBucketOf(r.Form)
	value, err := c.opts.Service.Value(r.Context(), admin.KeyRequest{Bucket: bucket, Key: r.Form.Get("key")})
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

// conflict says what to do where somebody else was faster.
func conflict(err error) error {
	var mismatch *statestore.ETagMismatchError
	if errors.As(err, &mismatch) {
		return &conflictError{err}
	}
	return err
}

// conflictError is about a key that is not in the version any more that the page showed.
type conflictError struct{ err error }

func (e *conflictError) Error() string {
	return "Somebody else has changed the key meanwhile: nothing was done. Look at it again before you do. (" + e.err.Error() + ")"
}
func (e *conflictError) Unwrap() error { return e.err }

// setKey sets the value of a key in the version that the page showed.
func (c *Console) setKey(r *http.Request) (next, error) {
	bucket, key := stateBucketOf(r.PostForm), r.PostForm.Get("key")
	// Browsers send line breaks as CR LF.
	text := strings.ReplaceAll(r.PostForm.Get("value"), "\r\n", "\n")
	_, err := c.opts.Service.SetValue(admin.By(r.Context(), person(r)), admin.SetRequest{
		Bucket: bucket, Key: key, Content: admin.ExactContent([]byte(text)), ContentType: r.PostForm.Get("contentType"), ETag: r.PostForm.Get("etag"),
	})
	if err != nil {
		return next{}, conflict(err)
	}
	query := stateQuery(bucket)
	query.Set("key", key)
	return after("/state/key", query, "set"), nil
}

// deleteKey deletes a key in the version that the page showed.
func (c *Console) deleteKey(r *http.Request) (next, error) {
	bucket := stateBucketOf(r.PostForm)
	err := c.opts.Service.DeleteValue(admin.By(r.Context(), person(r)), admin.DeleteRequest{
		Bucket: bucket, Key: r.PostForm.Get("key"), ETag: r.PostForm.Get("etag"),
	})
	if err != nil {
		return next{}, conflict(err)
	}
	return after("/state", stateQuery(bucket), "deleted"), nil
}
