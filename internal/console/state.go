package console

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
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
	Apps    admin.Apps
	Prefix  string
	Keys    admin.KeyPage
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
	p.Apps, err = admin.CallApps.Do(r.Context(), c.opts.Service, admin.PageRequest{Bucket: p.Bucket, Limit: appsShown})
	if err != nil {
		return nil, err
	}
	p.Keys, err = admin.CallKeys.Do(r.Context(), c.opts.Service, admin.KeysRequest{
		PageRequest: admin.PageRequest{Bucket: p.Bucket, After: r.Form.Get("after"), Limit: keysShown}, Prefix: p.Prefix,
	})
	if err != nil {
		return nil, err
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
	if !value.Expires.IsZero() {
		p.Stays = max(1, int(value.Expires.Sub(c.opts.Clock.Now()).Seconds()))
	}
	if !c.opts.HideValues {
		p.Value = newContent(r, data, link("/state/key/value", bucket, "key", value.Key.Key))
		if p.Editable = value.DataEncoding != admin.DataBase64 && len(data) <= maxText; p.Editable {
			p.Text = string(data)
		}
	}
	return &page{Title: "Key " + value.Key.Key, Section: sectionState, template: "key.html", Data: p}, nil
}

func (c *Console) keyValue(r *http.Request) (string, []byte, error) {
	_, _, data, err := c.valueOf(r)
	return "value", data, err
}

// conflict says what to do where somebody else was faster, or the key that is to be new is not.
func conflict(err error, etag string) error {
	var mismatch *statestore.ETagMismatchError
	switch {
	case !errors.As(err, &mismatch):
		return err
	case etag == "":
		return admin.Refuse(http.StatusConflict, "The key exists already: nothing was done. Look at it, and change it there. (%w)", err)
	}
	return admin.Refuse(http.StatusConflict, "Somebody else has changed the key meanwhile: nothing was done. Look at it again before you do. (%w)", err)
}

// setKey sets the value of a key in the version that the page showed, or of a new one.
func (c *Console) setKey(r *http.Request) (next, error) {
	bucket, key, etag := stateBucketOf(r.PostForm), r.PostForm.Get("key"), r.PostForm.Get("etag")
	ttl := 0
	if text := r.PostForm.Get("ttl"); text != "" {
		var err error
		if ttl, err = strconv.Atoi(text); err != nil {
			return next{}, invalid.New("ttl", text, "a whole number of seconds, or nothing")
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
	return after(link("/state/key", bucket, "key", key), "set"), nil
}

// deleteKey deletes a key in the version that the page showed. It asks first; what is to be typed is no key, as those can be
// long, or hold what no keyboard has.
func (c *Console) deleteKey(r *http.Request) (next, error) {
	bucket, key, etag := stateBucketOf(r.PostForm), r.PostForm.Get("key"), r.PostForm.Get("etag")
	ask := removal{
		Title: "Delete a key", Section: sectionState, Name: key, Words: "delete", Verb: "Delete", Back: link("/state/key", bucket, "key", key),
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
	return after(link("/state", bucket), "deleted"), nil
}
