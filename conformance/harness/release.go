package harness

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// DownloadsVariable names a mirror of Dapr's releases. Where it is set and empty, nothing is downloaded: Dapr's programs are
// built.
const DownloadsVariable = "DAPR_BOLT_DAPR_DOWNLOADS"

const daprReleases = "https://github.com/dapr/dapr/releases/download"

// downloads is a client that finds the user's proxy, has no limit for the whole of an answer, and leaves no connection behind.
var downloads = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	return &http.Client{Transport: transport}
}()

// release is a program as Dapr releases it: the archive <releases>/<version>/<name>_<os>_<arch>.tar.gz holds it, and a file
// beside that, with .sha256 added to its name, holds what `sha256sum -b` prints of the archive. Dapr's Makefile
// (genArchiveBinary) and .github/workflows/dapr.yml ("generate checksum files") make both.
type release struct {
	releases string // the URL
	name     string // daprd, placement or scheduler
	version  string // as in "v1.18.2"
	// silence is how long nothing may come from the server, its answer's first byte included.
	silence  time.Duration
	progress io.Writer
}

// download puts the program at path in one step, or leaves nothing there.
func (r release) download(ctx context.Context, path string) error {
	url := fmt.Sprintf("%s/%s/%s_%s_%s.tar.gz", strings.TrimSuffix(r.releases, "/"), r.version, r.name, runtime.GOOS, runtime.GOARCH)
	var said strings.Builder
	if err := r.get(ctx, url+".sha256", func(body io.Reader, _ int64) error {
		_, err := io.Copy(&said, io.LimitReader(body, 1<<10))
		return err
	}); err != nil {
		return err
	}
	want, _, _ := strings.Cut(said.String(), " ")
	return inOneStep(path, func(program string) error {
		hash := sha256.New()
		if err := r.get(ctx, url, func(body io.Reader, size int64) error {
			var got atomic.Int64
			count := writerFunc(func(p []byte) { got.Add(int64(len(p))) })
			meter := newMeter("downloading "+r.what(), "", r.progress, func() string {
				return fmt.Sprintf("%d of %d MB", got.Load()>>20, size>>20)
			})
			archive := io.TeeReader(body, io.MultiWriter(hash, count))
			err := r.unpack(archive, program)
			if err == nil {
				_, err = io.Copy(io.Discard, archive) // the sum is that of all of it
			}
			meter.stop(err)
			return err
		}); err != nil {
			return err
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != want {
			return fmt.Errorf("%s has the SHA-256 %s; the release says %q", url, got, want)
		}
		return nil
	})
}

func (r release) what() string { return r.name + " " + strings.TrimPrefix(r.version, "v") }

// get reads an answer of status 200 with read, which is told its size, or -1.
func (r release) get(ctx context.Context, url string, read func(body io.Reader, size int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(r.silence, func() { cancel(fmt.Errorf("nothing came for %s", r.silence)) })
	defer watchdog.Stop()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := downloads.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	body := io.TeeReader(response.Body, writerFunc(func([]byte) { watchdog.Reset(r.silence) }))
	if err := read(body, response.ContentLength); err != nil {
		return fmt.Errorf("%s: %w", url, because(ctx, err))
	}
	return nil
}

// because adds why ctx ended to an error that follows from it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// unpack writes the program in the archive to path.
func (r release) unpack(archive io.Reader, path string) error {
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	for members := tar.NewReader(unzipped); ; {
		member, err := members.Next()
		if err != nil {
			return fmt.Errorf("looking for %s: %w", r.name, err)
		}
		if filepath.Base(member.Name) != r.name || member.Typeflag != tar.TypeReg {
			continue
		}
		program, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(program, members)
		return errors.Join(err, program.Close())
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
